/* history.c: see history.h. */
#include "history.h"

#include <stdlib.h>
#include <string.h>

#include "array.h"
#include "segment.h"

void lk_history_init(lk_history *h)
{
    memset(h, 0, sizeof *h);
    lk_lock_init(&h->lock);
}

void lk_history_deinit(lk_history *h)
{
    free(h->items);
    lk_lock_deinit(&h->lock);
}

void lk_history_clear(lk_history *h)
{
    lk_lock_acquire(&h->lock);
    h->count = 0;
    h->bytes = 0;
    lk_lock_release(&h->lock);
}

/* False: no memory. */
static bool insert(lk_history *h, const lk_past *past)
{
    lk_lock_acquire(&h->lock);
    size_t at = h->count;
    bool has_room =
        lk_array_grow(&h->items, h->count, &h->capacity, sizeof *h->items, NULL) == LK_OK;
    if (has_room) {
        while (at > 0 && h->items[at - 1].generation > past->generation) at--;
        memmove(h->items + at + 1, h->items + at, (h->count - at) * sizeof *h->items);
        h->items[at] = *past;
        h->count++;
        h->bytes += past->bytes;
    }
    lk_lock_release(&h->lock);
    return has_room;
}

lk_status lk_history_adopt(lk_history *h, lk_env *env, const char *dir, uint64_t generation,
                           bool *out_adopted, lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    char path[LK_PATH_MAX];
    size_t n = 0;
    lk_segment_header header;
    lk_past past = {.generation = generation};
    *out_adopted = false;
    if (h->bytes_max == 0) return LK_OK;
    lk_segment_path(dir, generation, path, sizeof path);
    st = lk_env_open(env, path, LK_OPEN_READ, &file, err);
    if (st == LK_NOT_FOUND) return LK_OK;
    if (st != LK_OK) return st;
    LK_TRY(lk_file_size(file, &past.bytes, err));
    LK_TRY(lk_file_read(file, 0, bytes, sizeof bytes, &n, err));
    if (n < sizeof bytes || lk_segment_header_parse(bytes, path, &header, NULL) != LK_OK) goto done;
    if (header.generation != generation) goto done; /* prepared, from an older one, and not used */
    past.base_seq = header.base_seq;
    if (insert(h, &past)) {
        *out_adopted = true;
    } else {
        st = lk_fail_nomem(err, sizeof past);
    }
done:
    lk_file_close(file);
    return st;
}

bool lk_history_add(lk_history *h, lk_segment *segment)
{
    if (h->bytes_max == 0 || segment->count == 0) return false;
    lk_past past = {
        .generation = segment->generation,
        .base_seq = segment->base_seq,
        .bytes = lk_segment_kept_bytes(segment->tail),
    };
    if (segment->recovered) past.bytes = segment->memory_bytes;
    segment->kept = insert(h, &past);
    return segment->kept;
}

bool lk_history_pop(lk_history *h, uint64_t bytes_max, lk_past *out)
{
    lk_lock_acquire(&h->lock);
    bool any = h->count > 0 && h->bytes > bytes_max;
    if (any) {
        *out = h->items[0];
        memmove(h->items, h->items + 1, --h->count * sizeof *h->items);
        h->bytes -= out->bytes;
    }
    lk_lock_release(&h->lock);
    return any;
}

void lk_history_forget(lk_history *h, uint64_t generation)
{
    lk_lock_acquire(&h->lock);
    for (size_t i = 0; i < h->count; i++) {
        if (h->items[i].generation != generation) continue;
        h->bytes -= h->items[i].bytes;
        memmove(h->items + i, h->items + i + 1, (--h->count - i) * sizeof *h->items);
        break;
    }
    lk_lock_release(&h->lock);
}

bool lk_history_find(lk_history *h, uint64_t seq, lk_past *out)
{
    lk_lock_acquire(&h->lock);
    size_t at = h->count;
    while (at > 0 && h->items[at - 1].base_seq > seq) at--;
    if (at > 0) *out = h->items[at - 1];
    lk_lock_release(&h->lock);
    return at > 0;
}

uint64_t lk_history_after(lk_history *h, uint64_t seq)
{
    lk_lock_acquire(&h->lock);
    uint64_t first = 0;
    for (size_t i = h->count; i > 0 && h->items[i - 1].base_seq > seq; i--) {
        first = h->items[i - 1].base_seq;
    }
    lk_lock_release(&h->lock);
    return first;
}

uint64_t lk_history_bytes(lk_history *h)
{
    lk_lock_acquire(&h->lock);
    uint64_t bytes = h->bytes;
    lk_lock_release(&h->lock);
    return bytes;
}
