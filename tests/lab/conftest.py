"""What tests in the lab VM share."""
