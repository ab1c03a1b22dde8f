# inspect.pyx: what is in a store: numbers for statistics, proof of every checksum, readable dumps.

def stored_properties(bytes directory not None, Disk disk=None):
    """The texts kept with the store in a directory, by name; none where there is no store."""
    cdef lk_error err
    cdef lk_properties found
    cdef const char *c_dir = directory
    cdef lk_env *env = env_of(disk)
    cdef lk_status st
    cdef size_t i
    with nogil:
        st = lk_store_peek(env, c_dir, &found, &err)
    if st != LK_OK:
        raise_error(&err)
    try:
        return {(<bytes>found.items[i].name).decode(): (<bytes>found.items[i].value).decode()
                for i in range(found.count)}
    finally:
        lk_properties_free(&found)


cdef dict counters_of(lk_store_counters *c):
    return {
        "frames": c.frames, "records": c.records, "bytes": c.bytes, "syncs": c.syncs,
        "rotations": c.rotations, "stalls": c.stalls, "stall_ns": c.stall_ns,
        "slowdowns": c.slowdowns, "slowdown_ns": c.slowdown_ns, "flushes": c.flushes,
        "flush_records": c.flush_records, "flush_bytes": c.flush_bytes, "flush_ns": c.flush_ns,
        "compactions": c.compactions, "moves": c.moves, "compact_in": c.compact_in,
        "compact_out": c.compact_out, "compact_rows": c.compact_rows,
        "compact_ns": c.compact_ns, "rows_copied": c.rows_copied,
        "recovered_records": c.recovered_records, "recovered_bytes": c.recovered_bytes,
        "lost_bytes": c.lost_bytes,
    }


cdef dict cache_of(lk_store *s):
    cdef lk_cache_stats x
    lk_cache_stats_of(s.cache, &x)
    return {"fills": x.fills, "evictions": x.evictions, "used_bytes": x.used_bytes,
            "capacity_bytes": x.capacity_bytes, "fixed_bytes": x.fixed_bytes}


cdef list segments_of(lk_view *v):
    """(generation, base sequence, records, bytes used) of each live segment."""
    cdef lk_segment *s
    cdef uint32_t i
    out = []
    for i in range(v.segment_count):
        s = v.segments[i]
        out.append((s.generation, s.base_seq, lk_segment_visible(s, LK_SEQ_MAX), s.tail))
    return out


def raw_stats(Handle h not None):
    """Everything that the core counts, as plain values."""
    cdef lk_view *v
    cdef lk_error last
    cdef uint64_t errors, disk_bytes
    cdef lk_store_memory memory
    h.enter()
    v = lk_store_view(h.s)
    with nogil:
        lk_store_memory_of(h.s, &memory)
        disk_bytes = lk_store_disk_bytes(h.s)
    try:
        errors = lk_store_background_errors(h.s, &last)
        return {
            "counters": counters_of(&h.s.counters),
            "cache": cache_of(h.s),
            "segments": segments_of(v),
            "memory": memory,
            "disk_bytes": disk_bytes,
            "frozen": lk_store_frozen(h.s),
            "version": version_tuples(v.version, seen_by_all(h.s), h.s.options.max_garbage),
            "blobs": blobs_of(v),
            "range_tombstones": tombs_of(v),
            "history_bytes": lk_history_bytes(&h.s.history),
            "mapped": bool(h.s.mapped),
            "background_errors": errors + h.errors,
            "background_error": (located((<bytes>last.message).decode("utf-8", "replace"),
                                         PyUnicode_DecodeFSDefault(last.path) or None)
                                 if last.code != LK_OK else h.last_error),
        }
    finally:
        lk_view_unref(v)
        lk_store_leave(h.s)


cdef dict blobs_of(lk_view *v):
    """Files of values: how many, their bytes, and those of them that tables refer to."""
    cdef const lk_blob_files *files
    cdef uint64_t count = 0, size = 0, live = 0
    cdef uint32_t tree, i
    for tree in range(v.version.tree_count):
        if v.version.trees[tree] == NULL or v.version.trees[tree].blobs == NULL:
            continue
        files = v.version.trees[tree].blobs
        for i in range(files.count):
            count += 1
            size += lk_blob_file_size(files.items[i].file)
            # What stands in several ranges may be counted more than once.
            live += min(files.items[i].bytes, lk_blob_file_size(files.items[i].file))
    return {"files": count, "bytes": size, "live_bytes": live}


cdef uint64_t tombs_of(lk_view *v):
    """Deleted ranges: records of the log, and stretches of keys over tables."""
    cdef uint64_t n = 0
    cdef uint32_t i
    for i in range(v.segment_count):
        n += lk_segment_tombs_count(v.segments[i])
    for i in range(v.version.tree_count):
        if v.version.trees[i] != NULL and v.version.trees[i].tombs != NULL:
            n += lk_tombs_stretches(v.version.trees[i].tombs)
    return n


cdef dict tables_of(lk_view *v):
    """Address of each table of a version, by file number: one that stands in many ranges, once."""
    cdef const lk_tree_version *t
    cdef lk_table *table
    cdef uint32_t tree, i, j, k
    out = {}
    for tree in range(v.version.tree_count):
        t = v.version.trees[tree]
        if t == NULL:
            continue
        for i in range(t.range_count):
            for j in range(t.ranges[i].run_count):
                for k in range(t.ranges[i].runs[j].count):
                    table = t.ranges[i].runs[j].tables[k]
                    out[lk_table_meta_of(table).file] = <size_t>table
    return out


def verify_store(Handle h not None):
    """Proves every checksum: (counts, errors), where an error is the exception it stands for."""
    cdef lk_view *v
    cdef lk_table *table
    cdef lk_segment *segment
    cdef lk_table_report report
    cdef lk_error err
    cdef lk_status st
    cdef const lk_blob_files *files
    cdef lk_blob_file *file
    cdef uint32_t tree, i, records
    cdef uint64_t log_bytes, values, size
    cdef const char *dir = h.s.dir
    counts = {"files": 0, "blocks": 0, "rows": 0, "values": 0, "bytes": 0, "range_tombstones": 0}
    errors = []
    h.enter()
    v = lk_store_view(h.s)
    try:
        for address in tables_of(v).values():
            table = <lk_table *><size_t>address
            memset(&report, 0, sizeof(report))
            with nogil:
                st = lk_table_verify(table, &report, &err)
            if st == LK_NOT_FOUND:
                err.code = LK_CORRUPT
            counts["files"] += 1
            counts["blocks"] += report.blocks
            counts["rows"] += report.rows
            counts["bytes"] += report.bytes
            note_error(errors, st, &err)
        for tree in range(v.version.tree_count):
            if v.version.trees[tree] == NULL or v.version.trees[tree].blobs == NULL:
                continue
            files = v.version.trees[tree].blobs
            for i in range(files.count):
                file = files.items[i].file
                values = size = 0
                with nogil:
                    st = lk_blob_file_verify(file, &values, &size, &err)
                counts["files"] += 1
                counts["values"] += values
                counts["bytes"] += size
                note_error(errors, st, &err)
        for i in range(v.segment_count):
            segment = v.segments[i]
            records = lk_segment_visible(segment, LK_SEQ_MAX)
            log_bytes = 0
            with nogil:
                st = lk_segment_verify(segment, records, &log_bytes, &err)
            counts["files"] += 1
            counts["rows"] += records
            counts["bytes"] += log_bytes
            note_error(errors, st, &err)
        verify_history(h, counts, errors)
        counts["range_tombstones"] = tombs_of(v)
        with nogil:
            st = lk_manifest_dump(h.s.env, dir, print_nothing, NULL, &err)
        counts["files"] += 1
        note_error(errors, st, &err)
    finally:
        lk_view_unref(v)
        lk_store_leave(h.s)
    return counts, errors


cdef int verify_history(Handle h, dict counts, list errors) except -1:
    """Of flushed segments that are kept, newest first; they may go meanwhile."""
    cdef lk_past past
    cdef lk_error err
    cdef lk_status st
    cdef uint64_t seq = LK_SEQ_MAX, records, log_bytes
    while lk_history_find(&h.s.history, seq, &past):
        with nogil:
            st = lk_history_verify(h.s, &past, &records, &log_bytes, &err)
        if st != LK_NOT_FOUND:
            counts["files"] += 1
            counts["bytes"] += log_bytes
            note_error(errors, st, &err)
        if past.base_seq == 0:
            break
        seq = past.base_seq - 1
    return 0


cdef int note_error(list errors, lk_status st, lk_error *err) except -1:
    if st == LK_OK:
        return 0
    try:
        raise_error(err)
    except _errors.Error as error:
        errors.append(error)
    return 0


cdef void print_nothing(void *context, const char *line) noexcept nogil:
    pass


cdef void print_line(void *context, const char *line) noexcept with gil:
    (<list>context).append((<bytes>line).decode("utf-8", "replace"))


def dump_wal(bytes path not None, bint records=True):
    """A log file as lines of text: its header, frames and, with `records`, every record."""
    cdef list lines = []
    cdef lk_error err
    cdef lk_status st = lk_log_dump(lk_env_posix(), path, records, print_line, <void *>lines, &err)
    if st != LK_OK:
        raise_error(&err)
    return lines


def dump_manifest(bytes directory not None):
    """The live manifest's edits, checked, as lines of text."""
    cdef list lines = []
    cdef lk_error err
    cdef lk_status st = lk_manifest_dump(lk_env_posix(), directory, print_line, <void *>lines, &err)
    if st != LK_OK:
        raise_error(&err)
    return lines


def dump_sst(bytes path not None, bint rows=False):
    """A table as lines of text: footer, properties, index and, with `rows`, every row."""
    cdef list lines = []
    cdef lk_error err
    cdef lk_status st = lk_table_dump_file(lk_env_posix(), path, rows, print_line, <void *>lines,
                                           &err)
    if st != LK_OK:
        raise_error(&err)
    return lines


def dump_blob(bytes path not None):
    """A file of values as lines of text: its header, and each record, checked."""
    cdef list lines = []
    cdef lk_error err
    cdef lk_status st = lk_blob_dump(lk_env_posix(), path, print_line, <void *>lines, &err)
    if st != LK_OK:
        raise_error(&err)
    return lines


def approximate_size(Reader of not None, start, stop):
    """Bytes of tables that hold keys in [start, stop), to the block, and of the values that they refer
    to, supposing that these are spread evenly; the log is not counted."""
    cdef lk_view *v
    cdef lk_table *table
    cdef lk_error err
    cdef lk_status st
    cdef uint64_t seq
    total = 0
    start, stop = bound(start, "start") or b"", bound(stop, "stop")
    v = of.pin(&seq)
    if stop is not None and stop <= start:
        of.unpin(v)
        return 0
    try:
        for address in tables_of_tree(v, of.tree):
            table = <lk_table *><size_t>address
            with nogil:
                st = lk_table_load(table, &err)
            if st != LK_OK:
                raise_error(&err)
            part = place_of(table, stop) - place_of(table, start)
            total += part + values_of(table) * part // max(place_of(table, None), 1)
    finally:
        of.unpin(v)
    return total


cdef object values_of(lk_table *table):
    """Bytes of the values that a table refers to."""
    cdef const lk_table_meta *m = lk_table_meta_of(table)
    return sum([m.blobs[i].bytes for i in range(m.blob_count)])


cdef list tables_of_tree(lk_view *v, uint32_t tree):
    return [address for file, address in tables_of(v).items()
            if lk_table_meta_of(<lk_table *><size_t>address).tree == tree]


cdef uint64_t place_of(lk_table *table, object key) except? <uint64_t>-1:
    """Where the block that could hold `key` begins; None: behind the last block."""
    cdef uint32_t index, count = lk_table_block_count(table), size = 0
    cdef uint64_t offset = 0
    index = count if key is None else lk_table_seek(
        table, <const uint8_t *>PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key))
    if index < count:
        lk_table_block_place(table, index, &offset, &size)
        return offset
    if count > 0:
        lk_table_block_place(table, count - 1, &offset, &size)
    return offset + size
