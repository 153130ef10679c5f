"""Plain state of the loop: values in containers, attributes, tensors and arrays, restored in place."""
