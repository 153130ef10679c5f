"""Objects and loaders of Accelerate and Fabric. Imports neither of them."""
