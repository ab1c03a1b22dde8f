# core.pyx: the extension module; one compilation links the C core once.
#
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=False

include "errors.pyx"
include "columns.pyx"
include "keys.pyx"
include "engine.pxi"
include "disks.pyx"
include "merges.pyx"
include "handles.pyx"
include "scans.pyx"
include "cursors.pyx"
include "once.pyx"
include "writes.pyx"
include "transactions.pyx"
include "inline.pyx"
include "inspect.pyx"
include "housekeeping.pyx"
include "keyspaces.pyx"
include "btree.pyx"
include "changes.pyx"
include "hot.pyx"
