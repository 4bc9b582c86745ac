"""Names of operations by the way in which they keep, move or mix the places of entries."""

# fmt: off
MOVES = frozenset(
    """reshape view view_as reshape_as flatten unflatten ravel squeeze unsqueeze permute transpose swapaxes
    swapdims t movedim moveaxis adjoint contiguous clone expand expand_as broadcast_to repeat
    repeat_interleave tile roll rot90 flip fliplr flipud getitem select narrow index_select take gather
    take_along_dim chunk split tensor_split hsplit vsplit dsplit split_with_sizes unbind diagonal alias cat
    concat concatenate stack hstack vstack dstack column_stack row_stack setitem copy pixel_shuffle
    pixel_unshuffle channel_shuffle detach pad iter get index_put unsafe_chunk unsafe_split select_scatter
    slice_scatter masked_scatter""".split()
)
SPATIAL = frozenset(
    """conv2d conv_transpose2d convolution _convolution max_pool2d avg_pool2d adaptive_avg_pool2d
    adaptive_max_pool2d max_pool2d_with_indices adaptive_max_pool2d_with_indices lp_pool2d max_unpool2d
    fractional_max_pool2d interpolate upsample upsample_nearest upsample_bilinear
    conv1d conv_transpose1d max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d lp_pool1d
    max_pool1d_with_indices adaptive_max_pool1d_with_indices max_unpool1d
    conv3d conv_transpose3d max_pool3d avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d lp_pool3d
    max_pool3d_with_indices adaptive_max_pool3d_with_indices max_unpool3d fractional_max_pool3d""".split()
)
# The same entries in another precision, or on another device.
CASTS = frozenset("to type type_as float double half bfloat16 cpu cuda".split())
# The result's entry lies where the entries at its index lie.
ELEMENT_WISE = frozenset(
    """add sub subtract rsub mul multiply div rdiv divide true_divide floor_divide pow rpow addcmul addcdiv
    lerp where masked_fill fill zero clamp clip clamp_min clamp_max maximum minimum fmax fmin max min
    remainder fmod neg negative positive abs absolute sqrt rsqrt square exp exp2 expm1 log log2 log10
    log1p sin cos tan sinh cosh asinh atan tanh erf erfc sigmoid logit reciprocal sign sgn round floor
    ceil trunc fix frac heaviside nan_to_num copysign hypot atan2 logaddexp xlogy ldexp relu relu6
    leaky_relu rrelu prelu elu selu celu gelu silu swish mish softplus softsign hardtanh hardsigmoid
    hardswish hardshrink softshrink tanhshrink threshold logsigmoid log_sigmoid softmax log_softmax
    softmin gumbel_softmax normalize batch_norm layer_norm group_norm instance_norm rms_norm
    local_response_norm dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout
    feature_alpha_dropout""".split()
)
CONTRACTIONS = frozenset(
    "linear matmul mm bmm scaled_dot_product_attention multi_head_attention_forward".split()
)
REDUCTIONS = frozenset(
    "mean sum amax amin max min var std norm linalg_norm linalg_vector_norm logsumexp prod".split()
)
# fmt: on
# Those that leave the entries of maps where they are, or join their channels.
COPIES, JOINS = ("clone", "contiguous", "detach"), ("cat", "concat", "concatenate")
