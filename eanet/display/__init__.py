"""What people see: the terminal, pictures, the model card."""
