"""What a run found, for people and for programs: tables, JSON, one HTML file."""
