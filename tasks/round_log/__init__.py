"""The round log, rounds.csv and clients.csv: its columns, and the only code that writes and reads the files."""
