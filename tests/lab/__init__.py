"""A laboratory for crashes: a server forks training programs that have torch imported already; knows no test."""
