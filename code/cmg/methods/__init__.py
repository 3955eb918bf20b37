"""What the loop asks of a method, and the methods: Uni-Code and its rivals."""
