"""The laws a regularizer or transformation must obey, for your own ones, too."""
