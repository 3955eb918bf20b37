"""The methods with a shared codebook: the objectives that are joined, and the method that they make."""
