"""What every command needs: the console command, what it prints, errors and files.  No torch."""
