"""What is asked of backends: are they well, how full are they."""
