"""What a saidata file is: records, schema, reading and writing, merging, where files lie. Version 0.3, and 0.1 and 0.2 to read.

Must not know evidence, indexes or models: only the format. Open document.py (`Text`) to read and change a file, emit.py (`emit`)
to write one, records.py for what it may hold.
"""
