"""What every part of the library uses: policies, seeds, atomic files, hashes, tables."""
