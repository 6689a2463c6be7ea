"""File formats. The only floor that knows them, and the only one where RELION labels or cryoSPARC fields occur.

Readers raise `cryoloom.contract.InputError` with one sentence that names the file, what was expected and found,
and what to do. Writers write beside and rename, so a file under its final name is whole.
"""
