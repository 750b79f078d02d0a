"""Tasks are lm-eval task folders: find, resolve and load them (`library`), make and check one (`folders`)."""
