import keras
from keras import ops


def batch_norm(x, gamma, beta, moving_mean, moving_variance, epsilon, training):
    if not training:
        return ops.batch_normalization(x, ops.cast(moving_mean,x.dtype), ops.cast(moving_variance,x.dtype), -1, beta, gamma, epsilon), None, None
    if keras.backend.backend() == "tensorflow" and keras.backend.standardize_dtype(x.dtype) != "float64":
        import tensorflow as tf
        y, mean, variance = tf.compat.v1.nn.fused_batch_norm(x, tf.cast(gamma,"float32"), tf.cast(beta,"float32"), epsilon=epsilon, is_training=True)
        n = tf.cast(tf.size(x) // x.shape[-1], variance.dtype)
        return y, mean, variance * ((n - 1) / n)
    mean, variance = ops.moments(x, axes=[0, 1, 2])
    return ops.batch_normalization(x, mean, variance, -1, beta, gamma, epsilon), mean, variance
