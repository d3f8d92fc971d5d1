"""What every package needs: the console command, what it prints, errors, files, strict readers.  No torch."""
