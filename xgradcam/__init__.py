"""XGrad-CAM: axiom-based class activation maps for PyTorch classifiers."""
