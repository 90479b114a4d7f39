"""Backups of a store in a folder, made while servers write to it.

A backup is a folder with the files of a store, and two more:

    catalogue.db        a copy of the catalogue, of one state
    chunks/             the payloads that this state needs, as hard links or copies, and the identity that goes with it
    backup.json         the manifest: what the backup holds, with checksums. A backup without it is not complete
    backup.incomplete   there while a backup is made for the first time

`create.py` makes and updates backups, `restoring.py` makes stores of them, `checking.py` opens one without changing it. They
share `manifest.py`, `catalogue_copy.py`, `payloads.py` and `folders.py`. This is for SQLite and folders only.
"""
