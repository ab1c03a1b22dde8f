/* disk.c: how much of the disk a store takes, and what it refuses when that is too much.
 *
 * Counted are tables, the live log as far as it is written, and its history. What is over the option
 * `disk_max` is refused before it is written, so the bound holds for each frame; deletes pass, for they are what
 * makes room. Compaction goes on: while it merges, both its inputs and its outputs are there.
 *
 * Callers   whoever takes write_lock to append; ingest.c; statistics.
 * Errors    LK_IO with ENOSPC. It is no failure of the log: the store goes on.
 */
#include <errno.h>

#include "check.h"
#include "record.h"
#include "store.h"

static uint64_t table_bytes(const lk_version *version)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < version->tree_count; i++) {
        const lk_tree_version *t = version->trees[i];
        for (uint32_t j = 0; t != NULL && j < t->file_count; j++) {
            bytes += lk_table_meta_of(t->files[j].table)->bytes;
        }
        const lk_blob_files *blobs = lk_version_blobs(version, i);
        for (uint32_t j = 0; blobs != NULL && j < blobs->count; j++) {
            bytes += lk_blob_file_size(blobs->items[j].file);
        }
    }
    return bytes;
}

/* write_lock is held: it guards the tail of the active segment. */
static uint64_t bytes_used(lk_store *s)
{
    lk_view *v = lk_store_view(s);
    uint64_t bytes = table_bytes(v->version) + lk_history_bytes(&s->history);
    for (uint32_t i = 0; i < v->segment_count; i++) {
        if (v->segments[i]->count > 0) bytes += v->segments[i]->tail;
    }
    lk_view_unref(v);
    return bytes;
}

uint64_t lk_store_disk_bytes(lk_store *s)
{
    lk_lock_acquire(&s->write_lock);
    uint64_t bytes = bytes_used(s);
    lk_lock_release(&s->write_lock);
    return bytes;
}

lk_status lk_store_disk_full(const lk_store *s, uint64_t used, uint64_t more, lk_error *err)
{
    uint64_t max = s->options.disk_max;
    if (max == 0 || (used < max && more <= max - used)) return LK_OK;
    return lk_fail(err, LK_IO, ENOSPC, s->dir, used, max, more,
                   "%s takes %llu bytes, and %llu more would be over max_disk_bytes, %llu", s->dir,
                   (unsigned long long)used, (unsigned long long)more, (unsigned long long)max);
}

lk_status lk_store_disk_left(lk_store *s, uint64_t frame_bytes, bool deletes, uint64_t *out_left,
                             lk_error *err)
{
    LK_ASSERT(lk_lock_is_held(&s->write_lock));
    uint64_t max = s->options.disk_max;
    *out_left = UINT64_MAX;
    if (max == 0) return LK_OK;
    uint64_t used = bytes_used(s);
    *out_left = used < max ? max - used : 0;
    if (frame_bytes <= *out_left) return LK_OK;
    if (!deletes) return lk_store_disk_full(s, used, frame_bytes, err);
    *out_left = frame_bytes; /* this one, and the next looks again */
    return LK_OK;
}

bool lk_store_is_deleting(const lk_write *w)
{
    if (w->keys != NULL) return w->kind == LK_KIND_DELETE || w->kind == LK_KIND_DELETE_RANGE;
    const uint8_t *p = w->body;
    for (uint64_t i = 0; i < w->records; i++) {
        lk_record r = lk_record_at(p);
        if (r.kind != LK_KIND_DELETE && r.kind != LK_KIND_DELETE_RANGE) return false;
        p = r.value + r.value_len;
    }
    return true;
}
