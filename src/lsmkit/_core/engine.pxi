# engine.pxi: every declaration of the C engine that the store's handles use, once.
#
# The value types of layer 0 (status.h, column.h) are declared where they become Python objects:
# errors.pyx and columns_in.pyx.

cdef extern from "hash.h" nogil:
    uint64_t lk_hash_key(uint32_t tree, const uint8_t *key, size_t len)

cdef extern from "env.h" nogil:
    ctypedef struct lk_env:
        pass
    lk_env *lk_env_posix()
    uint64_t lk_env_wall_us(lk_env *env)

cdef extern from "guard.h" nogil:
    ctypedef struct lk_guard:
        pass
    unsigned lk_guard_enter(lk_guard *guard)
    void lk_guard_exit(lk_guard *guard, unsigned token)

cdef extern from "status.h" nogil:
    lk_status lk_fail(lk_error *err, lk_status code, int sys_errno, const char *path,
                      uint64_t offset, uint64_t expected, uint64_t found, const char *format, ...)

cdef extern from "column.h" nogil:
    lk_bytes lk_column_row(const lk_column *col, size_t i, uint8_t *scratch)

cdef extern from "bytes.h" nogil:
    int lk_key_compare(const uint8_t *a, size_t alen, const uint8_t *b, size_t blen)

cdef extern from "row.h" nogil:
    ctypedef enum lk_kind:
        LK_KIND_PUT
        LK_KIND_DELETE
        LK_KIND_MERGE
        LK_KIND_PUT_UNTIL
        LK_KIND_DELETE_RANGE
    const uint64_t LK_SEQ_MAX

cdef extern from "codec.h" nogil:
    ctypedef enum lk_codec:
        LK_CODEC_NONE
        LK_CODEC_LZ4
        LK_CODEC_ZSTD

cdef extern from "block.h" nogil:
    ctypedef struct lk_block:
        uint32_t rows
    void lk_block_unref(lk_block *b)

cdef extern from "cache.h" nogil:
    ctypedef struct lk_cache:
        pass
    ctypedef struct lk_cache_stats:
        uint64_t fills, evictions, used_bytes, capacity_bytes, fixed_bytes
    void lk_cache_stats_of(lk_cache *c, lk_cache_stats *out)

cdef extern from "blob.h" nogil:
    ctypedef struct lk_blob_file:
        pass
    ctypedef struct lk_blob_use:
        uint64_t file, size, rows, bytes
    ctypedef struct lk_blob_item:
        lk_blob_file *file
        uint64_t rows, bytes
    ctypedef struct lk_blob_files:
        uint32_t count
        lk_blob_item *items
    uint64_t lk_blob_file_size(const lk_blob_file *f)
    lk_status lk_blob_file_verify(lk_blob_file *f, uint64_t *out_records, uint64_t *out_bytes,
                                  lk_error *err)
    const lk_blob_item *lk_blob_files_find(const lk_blob_files *f, uint64_t file)
    bint lk_blob_item_is_wasteful(const lk_blob_item *item, double max_garbage)
    lk_status lk_blob_dump(lk_env *env, const char *path,
                           void (*print)(void *context, const char *line) noexcept,
                           void *context, lk_error *err)

cdef extern from "table.h" nogil:
    ctypedef struct lk_table_meta:
        uint64_t file, nonce, bytes, rows, tombstones, raw_bytes, seq_min, seq_max
        uint64_t operands, deadlines, deadline_min, deadline_max, written, made
        uint32_t tree, min_len, max_len, blob_count
        uint8_t *min_key
        uint8_t *max_key
        lk_blob_use *blobs
    ctypedef struct lk_table:
        pass
    ctypedef struct lk_table_report:
        uint64_t blocks, rows, bytes
    ctypedef struct lk_table_options:
        uint32_t block_bytes, filter_bits
        lk_codec codec
    const lk_table_meta *lk_table_meta_of(const lk_table *t)
    lk_status lk_table_load(lk_table *t, lk_error *err)
    size_t lk_table_memory(const lk_table *t)
    uint32_t lk_table_block_count(const lk_table *t)
    uint32_t lk_table_seek(const lk_table *t, const uint8_t *key, size_t key_len)
    void lk_table_block_place(const lk_table *t, uint32_t index, uint64_t *out_offset,
                              uint32_t *out_bytes)
    lk_status lk_table_dump_file(lk_env *env, const char *path, bint rows,
                                 void (*print)(void *context, const char *line) noexcept,
                                 void *context, lk_error *err)
    lk_status lk_table_verify(lk_table *t, lk_table_report *out, lk_error *err)

cdef extern from "version.h" nogil:
    ctypedef struct lk_run:
        uint32_t level, count
        uint64_t stamp
        lk_table **tables
    ctypedef struct lk_range:
        lk_bytes lower
        uint32_t run_count
        lk_run *runs
    ctypedef struct lk_tombs:
        pass
    ctypedef struct lk_tree_file:
        lk_table *table
    ctypedef struct lk_tree_version:
        uint32_t tree, range_count, file_count
        uint64_t number
        lk_tree_file *files
        lk_range *ranges
        lk_tombs *tombs
        lk_blob_files *blobs
    ctypedef struct lk_version:
        uint64_t number
        uint32_t tree_count
        lk_tree_version **trees
    const lk_tree_version *lk_version_tree(const lk_version *v, uint32_t tree)
    uint64_t lk_tree_version_covered(const lk_tree_version *t, const lk_table *table, uint64_t seq)
    uint32_t lk_tombs_stretches(const lk_tombs *t)

cdef extern from "properties.h" nogil:
    ctypedef struct lk_edit_property:
        char *name
        char *value
    ctypedef struct lk_properties:
        lk_edit_property *items
        size_t count
    void lk_properties_free(lk_properties *p)

cdef extern from "manifest.h" nogil:
    ctypedef struct lk_manifest:
        pass
    const char *lk_manifest_property(const lk_manifest *m, const char *name)
    lk_status lk_manifest_dump(lk_env *env, const char *dir,
                               void (*print)(void *context, const char *line) noexcept,
                               void *context, lk_error *err)

cdef extern from "segment.h" nogil:
    ctypedef struct lk_segment:
        uint64_t generation, base_seq
        uint32_t count, tail
        bint recovered
    lk_status lk_segment_verify(const lk_segment *s, uint32_t records, uint64_t *out_bytes,
                                lk_error *err)
    uint32_t lk_segment_visible(const lk_segment *s, uint64_t seq)
    ctypedef struct lk_record:
        const uint8_t *key
        const uint8_t *value
        uint32_t key_len, value_len
        uint32_t tree
        lk_kind kind
    lk_record lk_record_at(const uint8_t *p)
    uint32_t lk_segment_tombs_count(const lk_segment *s)
    size_t lk_record_bytes(uint32_t tree, size_t key_len, size_t value_len)
    uint8_t *lk_record_write(uint8_t *to, uint32_t tree, lk_kind kind, const uint8_t *key,
                             size_t key_len, const uint8_t *value, size_t value_len)
    uint8_t *lk_record_write_headed(uint8_t *to, uint32_t tree, lk_kind kind, const uint8_t *key,
                                    size_t key_len, const uint8_t *head, size_t head_len,
                                    const uint8_t *value, size_t value_len)

cdef extern from "operator.h" nogil:
    ctypedef struct lk_buffer:
        uint8_t *data
        size_t len, capacity
    ctypedef enum lk_operator_kind:
        LK_OPERATOR_OTHER
        LK_OPERATOR_ADD_INT64
        LK_OPERATOR_ADD_FLOAT64
        LK_OPERATOR_MAX_INT64
        LK_OPERATOR_MIN_INT64
    ctypedef struct lk_operator
    ctypedef lk_status lk_operator_full(const lk_operator *op, const lk_bytes *old,
                                        const lk_bytes *operands, size_t count, lk_buffer *out,
                                        lk_error *err) noexcept
    ctypedef lk_status lk_operator_check(const lk_operator *op, lk_bytes operand,
                                         lk_error *err) noexcept
    ctypedef lk_status lk_operator_partial(const lk_operator *op, const lk_bytes *operands,
                                           size_t count, lk_buffer *out, lk_error *err) noexcept
    ctypedef struct lk_operator:
        char *text
        lk_operator_kind kind
        bint calls_out
        size_t width
        lk_operator_full *full
        lk_operator_partial *partial
        lk_operator_check *check
        void *context
    lk_status lk_buffer_append(lk_buffer *b, const void *data, size_t len, lk_error *err)
    void lk_buffer_deinit(lk_buffer *b)
    lk_status lk_operator_parse(const char *text, lk_operator **out, lk_error *err)
    lk_status lk_operator_new(const char *text, lk_operator_full *full,
                              lk_operator_partial *partial,
                              void (*release)(void *context) noexcept, void *context,
                              lk_operator **out, lk_error *err)
    lk_operator *lk_operator_ref(lk_operator *op)
    void lk_operator_unref(lk_operator *op)
    lk_status lk_hll_estimate(lk_bytes value, double *out, lk_error *err)

cdef extern from "combine.h" nogil:
    ctypedef struct lk_combined:
        lk_column keys, operands
    lk_status lk_combine_check(const lk_operator *op, const lk_column *operands, lk_error *err)
    lk_status lk_combine(const lk_operator *op, const lk_column *keys, const lk_column *operands,
                         lk_combined *out, lk_error *err)
    void lk_combined_deinit(lk_combined *c)
    ctypedef struct lk_combiner:
        pass
    lk_status lk_combiner_new(const lk_operator *op, lk_combiner **out, lk_error *err)
    lk_status lk_combiner_add(lk_combiner *c, const lk_column *keys, const lk_column *operands,
                              lk_error *err)
    lk_status lk_combiner_end(lk_combiner *c, lk_combined *out, lk_error *err)
    void lk_combiner_free(lk_combiner *c)

cdef extern from "settings.h" nogil:
    const uint64_t LK_TTL_NONE
    ctypedef struct lk_tree_settings:
        uint32_t tree
        lk_operator *op
        uint64_t ttl_us
    ctypedef struct lk_settings:
        bint has_ttl
    lk_status lk_settings_new(lk_env *env, const lk_tree_settings *trees, uint32_t count,
                              lk_settings **out, lk_error *err)
    void lk_settings_unref(lk_settings *s)
    const lk_tree_settings *lk_settings_tree(const lk_settings *s, uint32_t tree)

cdef extern from "view.h" nogil:
    ctypedef struct lk_view:
        uint32_t segment_count
        lk_version *version
        lk_settings *settings
        lk_segment **segments
    ctypedef enum lk_lookup:
        LK_LOOKUP_ABSENT
        LK_LOOKUP_VALUE
        LK_LOOKUP_BLOCKED
    ctypedef struct lk_answer:
        lk_bytes value
        uint64_t seq
    void lk_view_ref(lk_view *v)
    void lk_view_unref(lk_view *v)
    lk_lookup lk_view_get(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                          uint64_t hash, uint64_t seq, lk_answer *out)
    enum:
        LK_VIEW_KEYS_MAX
    void lk_view_get_many(const lk_view *v, uint32_t tree, uint32_t n, const lk_bytes *keys,
                          const uint64_t *hashes, uint64_t seq, lk_lookup *out_found,
                          lk_answer *out)
    lk_status lk_view_fetch(const lk_view *v, lk_guard *guard, uint32_t tree, const uint8_t *key,
                            size_t key_len, uint64_t hash, uint64_t seq, lk_lookup *out_found,
                            lk_answer *out, lk_block **out_block, lk_error *err)

cdef extern from "merge.h" nogil:
    ctypedef struct lk_bounds:
        lk_bytes lower, upper

cdef extern from "cursor.h" nogil:
    ctypedef struct lk_cursor:
        pass
    ctypedef struct lk_pair:
        lk_bytes key, value
    ctypedef struct lk_columns_out:
        size_t rows
        uint8_t *keys
        uint8_t *values
        int64_t *key_offsets
        int64_t *value_offsets
        size_t key_bytes, value_bytes, key_capacity, value_capacity, offset_capacity
        int64_t key_width, value_width
        void *(*grow)(void *old, size_t old_bytes, size_t new_bytes) noexcept
    lk_status lk_cursor_open(lk_view *view, uint32_t tree, uint64_t seq, const lk_bounds *bounds,
                             bint reverse, lk_cursor **out, lk_error *err)
    void lk_cursor_close(lk_cursor *c)
    lk_status lk_cursor_next(lk_cursor *c, lk_pair *out, size_t max, size_t *out_count,
                             lk_error *err)
    lk_status lk_cursor_next_columns(lk_cursor *c, size_t max, lk_columns_out *out, lk_error *err)
    lk_status lk_cursor_count(lk_cursor *c, uint64_t *out, lk_error *err)

cdef extern from "compact.h" nogil:
    ctypedef enum lk_job_kind:
        LK_JOB_MERGE
        LK_JOB_MOVE
        LK_JOB_JOIN
        LK_JOB_DROP
    ctypedef struct lk_job:
        lk_job_kind kind
        uint32_t tree
        lk_bytes lower
        const uint64_t *files
        size_t file_count
        uint32_t out_level, split_tables, parts
        bint in_place
        uint64_t cut_bytes
        lk_table_options table
    ctypedef struct lk_job_result:
        uint64_t bytes_in, bytes_out, rows_in, rows_out, rows_copied, tables_out, ns

cdef extern from "lock.h" nogil:
    ctypedef struct lk_event:
        pass
    uint64_t lk_event_generation(lk_event *event)
    bint lk_event_wait_ns(lk_event *event, uint64_t seen, uint64_t timeout_ns)
    void lk_event_broadcast(lk_event *event)

cdef extern from "checks.h" nogil:
    ctypedef struct lk_check:
        uint32_t tree
        bint is_range
        lk_bytes start, stop
    ctypedef struct lk_checks:
        const lk_check *items
        size_t count
        uint64_t moment
        bint is_held

cdef extern from "trees.h" nogil:
    ctypedef struct lk_tree_entry:
        uint32_t tree
        char *text
    ctypedef struct lk_trees:
        uint32_t count
        lk_tree_entry *items
    const lk_tree_entry *lk_trees_find(const lk_trees *t, uint32_t tree)
    const lk_tree_entry *lk_trees_named(const lk_trees *t, const char *name)
    void lk_trees_unref(lk_trees *t)

cdef extern from "store.h" nogil:
    ctypedef enum lk_durability:
        LK_DURABILITY_PROCESS
        LK_DURABILITY_PERIODIC
        LK_DURABILITY_SYNC
    ctypedef enum lk_log_io:
        LK_LOG_AUTO
        LK_LOG_MAPPED
        LK_LOG_WRITTEN
    ctypedef struct lk_store_options:
        uint64_t segment_bytes, cache_bytes, table_bytes, rate_limit, memory_bytes
        uint64_t disk_max
        uint32_t block_bytes, filter_bits, blob_bytes
        double max_garbage
        lk_codec codec
        lk_durability durability
        lk_log_io log_io
        uint32_t background_threads, sync_interval_ms, frozen_max
        bint read_only, create_if_missing, error_if_exists
        uint64_t lock_timeout_ns
        uint64_t retain_log_bytes
        lk_settings *settings
    ctypedef bint c_bool "bool"
    ctypedef struct lk_snapshot:
        uint64_t seq
        lk_view *view
    ctypedef struct lk_store_counters:
        uint64_t frames, records, bytes, syncs, rotations, stalls, stall_ns, slowdowns, slowdown_ns
        uint64_t flushes, flush_records, flush_bytes, flush_ns
        uint64_t compactions, moves, compact_in, compact_out, compact_rows, compact_ns
        uint64_t rows_copied, recovered_records, recovered_bytes, lost_bytes
    ctypedef struct lk_past:
        uint64_t generation, base_seq, bytes
    ctypedef struct lk_history:
        pass
    bint lk_history_find(lk_history *h, uint64_t seq, lk_past *out)
    uint64_t lk_history_bytes(lk_history *h)
    ctypedef struct lk_store:
        lk_history history
        lk_env *env
        char *dir
        lk_store_options options
        lk_guard guard
        lk_manifest *manifest
        lk_cache *cache
        lk_store_counters counters
        lk_event changed, decide
        bint mapped
    ctypedef struct lk_write:
        lk_durability durability
        uint64_t timeout_ns
        uint32_t tree
        lk_kind kind
        const lk_column *keys
        const lk_column *values
        uint64_t ttl_us
        bint has_ttl, stamp
        const uint8_t *body
        uint64_t body_bytes, records
        const lk_checks *checks
        lk_bytes source
        uint64_t source_seq
    ctypedef struct lk_job_report:
        uint64_t id
        lk_status status
        lk_job_result result
        char *message
    void lk_store_options_init(lk_store_options *o)
    lk_status lk_store_open(lk_env *env, const char *dir, const lk_store_options *options,
                            lk_store **out, lk_error *err)
    lk_status lk_store_peek(lk_env *env, const char *dir, lk_properties *out, lk_error *err)
    lk_status lk_store_close(lk_store *s, lk_error *err)
    void lk_store_free(lk_store *s)
    lk_status lk_store_enter(lk_store *s, lk_error *err)
    void lk_store_leave(lk_store *s)
    lk_status lk_store_closed_error(const lk_store *s, lk_error *err)
    bint lk_store_is_open(const lk_store *s)
    bint lk_store_is_forked(const lk_store *s)
    lk_view *lk_store_read_begin(lk_store *s, unsigned *out_token)
    lk_view *lk_store_view(lk_store *s)
    lk_status lk_store_refresh(lk_store *s, c_bool *out_moved, lk_error *err)
    bint lk_store_is_behind(lk_store *s)
    lk_view *lk_store_view_now(lk_store *s, uint64_t *out_seq)
    lk_status lk_store_snapshot(lk_store *s, lk_snapshot **out, lk_error *err)
    void lk_store_release(lk_store *s, lk_snapshot *snapshot)
    lk_status lk_store_snapshots(lk_store *s, uint64_t **out, size_t *out_count, lk_error *err)
    lk_status lk_store_try_put(lk_store *s, uint32_t tree, lk_kind kind, const uint8_t *key,
                               uint32_t key_len, const uint8_t *value, uint32_t value_len,
                               uint64_t hash)
    lk_status lk_store_try_put_for(lk_store *s, uint32_t tree, lk_kind kind, const uint8_t *key,
                                   uint32_t key_len, const uint8_t *value, uint32_t value_len,
                                   uint64_t ttl_us)
    lk_status lk_store_try_begin(lk_store *s, uint64_t body_bytes, uint32_t records, uint8_t **out)
    lk_status lk_store_commit(lk_store *s, uint64_t body_bytes, uint32_t records, lk_error *err)
    lk_status lk_store_write(lk_store *s, const lk_write *w, lk_error *err)
    lk_status lk_store_position(lk_store *s, lk_bytes source, bint *out_any, uint64_t *out_seq,
                                lk_error *err)
    lk_status lk_store_sync(lk_store *s, lk_error *err)
    lk_status lk_store_flush(lk_store *s, lk_error *err)
    void lk_store_set_rate(lk_store *s, uint64_t bytes_per_second, bint stop)
    double lk_store_pressure(lk_store *s)
    lk_status lk_store_set_property(lk_store *s, const char *name, const char *value,
                                    lk_error *err)
    lk_status lk_store_submit(lk_store *s, const lk_job *job, uint64_t *out_id, lk_error *err)
    bint lk_store_take_report(lk_store *s, lk_job_report *out)
    uint32_t lk_store_free_workers(lk_store *s)
    bint lk_store_is_quiet(lk_store *s)
    ctypedef struct lk_store_memory:
        uint64_t segments, pinned, cache, tables, background, total, limit
    void lk_store_memory_of(lk_store *s, lk_store_memory *out)
    uint32_t lk_store_frozen(const lk_store *s)
    uint64_t lk_store_disk_bytes(lk_store *s)
    uint64_t lk_store_background_errors(lk_store *s, lk_error *out)

    lk_trees *lk_store_trees(lk_store *s)
    lk_status lk_store_set_tree(lk_store *s, const lk_tree_settings *tree, lk_error *err)
    lk_status lk_store_keyspace_create(lk_store *s, const char *text, uint32_t *out_tree,
                                       lk_error *err)
    lk_status lk_store_keyspace_change(lk_store *s, uint32_t tree, const char *text, lk_error *err)
    lk_status lk_store_keyspace_drop(lk_store *s, uint32_t tree, lk_error *err)

cdef extern from "changes.h" nogil:
    lk_status lk_history_verify(lk_store *s, const lk_past *past, uint64_t *out_records,
                                uint64_t *out_bytes, lk_error *err)

cdef extern from "recover.h" nogil:
    lk_status lk_log_dump(lk_env *env, const char *path, bint records,
                          void (*print)(void *context, const char *line) noexcept, void *context,
                          lk_error *err)
