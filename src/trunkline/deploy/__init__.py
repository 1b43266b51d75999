"""Blue-green deploys: moves every client to a new colour, counts them, and gives a verdict."""
