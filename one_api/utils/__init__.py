"""The decorators that guard routes: keys, limits."""
