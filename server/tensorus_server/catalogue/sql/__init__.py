"""The tables of a catalogue, in SQL that every database of ours understands."""
