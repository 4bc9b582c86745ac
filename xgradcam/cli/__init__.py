"""The two command lines: parse the arguments, call the package, print. Only this folder prints."""
