"""What every ``prepare`` needs: archives, downloads, packed files, picture formats."""
