"""Classic control in JAX: each has the dynamics of Gymnasium's environment of the same name, where there is one."""
