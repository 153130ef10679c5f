"""What Accelerate and Fabric prepare, and the objects that prepare it. Imports neither of them."""
