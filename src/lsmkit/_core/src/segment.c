/* segment.c: preparing, activating and appending to a log segment, and looking a key up in it.
 *
 * The write path is here. A frame's body is written first, then its header, then the index entries,
 * and `published` last, with release: a reader that sees the number sees all of it, and a process
 * that is killed anywhere in between leaves a frame whose header is not valid.
 */
#include "segment.h"

#include <stdio.h>
#include <stdlib.h>

#include "check.h"
#include "frame.h"
#include "order.h"
#include "prove.h"

#define BATCH 16u /* records whose slots are prefetched together: 34 against 21 ns a tiny record */

void lk_segment_path(const char *dir, uint64_t generation, char *out, size_t out_bytes)
{
    (void)snprintf(out, out_bytes, "%s/%06llu.log", dir, (unsigned long long)generation);
}

/* ---- preparing ---- */

static size_t file_bytes(const lk_segment_plan *plan)
{
    return (size_t)lk_align_up(plan->capacity, LK_PAGE_BYTES) + LK_PAGE_BYTES;
}

/* What cannot be shortened takes more of the disk, and is right. */
static void cut(lk_segment *s)
{
    uint8_t end[8];
    uint64_t bytes = lk_segment_kept_bytes(s->tail);
    lk_store64(end, s->nonce + s->tail);
    lk_status st = lk_file_write(s->file, bytes - sizeof end, end, sizeof end, NULL);
    if (st == LK_OK) (void)lk_file_truncate(s->file, bytes, NULL);
}

static void segment_release(lk_segment *s)
{
    if (s == NULL) return;
    lk_proof_free(s->proof);
    lk_order_unref(s->order);
    lk_order_unref(s->live);
    lk_tomb_log_clear(&s->tombs);
    lk_index_deinit(&s->index);
    lk_env_unmap(s->env, s->base, s->memory_bytes);
    if (s->kept && !s->recovered) cut(s);
    lk_file_close(s->file);
    free(s->staging);
    lk_lock_deinit(&s->order_lock);
    free(s);
}

static lk_segment *segment_alloc(lk_env *env, lk_error *err)
{
    lk_segment *s = calloc(1, sizeof *s);
    if (s == NULL) {
        (void)lk_fail_nomem(err, sizeof *s);
        return NULL;
    }
    s->env = env;
    atomic_init(&s->refs, 1);
    lk_lock_init(&s->order_lock);
    return s;
}

#define FILL_BYTES (1u << 20)

/* By a handle of its own: a kernel tells each handle once of what it could not write, and what it has
 * told the fill, the sync of a frame would not hear any more. */
lk_status lk_segment_fill(lk_segment *s, lk_error *err)
{
    lk_status st = LK_OK;
    lk_file *file = NULL;
    uint32_t from = atomic_load_explicit(&s->filled, memory_order_relaxed);
    uint32_t n = s->capacity - from < FILL_BYTES ? s->capacity - from : FILL_BYTES;
    if (n == 0) return LK_OK;
    uint8_t *zeros = calloc(1, n);
    if (zeros == NULL) return lk_fail_nomem(err, n);
    LK_TRY(lk_env_open(s->env, lk_file_path(s->file), LK_OPEN_WRITE, &file, err));
    LK_TRY(lk_file_write(file, from, zeros, n, err));
    LK_TRY(lk_file_datasync(file, err));
    atomic_store_explicit(&s->filled, from + n, memory_order_release);
done:
    lk_file_close(file);
    free(zeros);
    return st;
}

static lk_status segment_create(const lk_segment_plan *plan, const char *path, lk_segment **out,
                                lk_error *err)
{
    lk_status st = LK_OK;
    size_t bytes = file_bytes(plan);
    lk_segment *s = segment_alloc(plan->env, err);
    *out = NULL;
    if (s == NULL) return LK_NOMEM;
    LK_TRY(lk_env_open(plan->env, path, LK_OPEN_WRITE | LK_OPEN_CREATE | LK_OPEN_TRUNCATE, &s->file,
                       err));
    /* Real blocks for the whole file: a hole that cannot be filled is a SIGBUS. */
    LK_TRY(lk_file_allocate(s->file, bytes, err));
    if (plan->mapped) {
        LK_TRY(lk_file_map(s->file, bytes, true, &s->base, err));
    } else {
        LK_TRY(lk_env_map_anonymous(plan->env, bytes, &s->base, err));
    }
    s->memory_bytes = bytes;
    s->mapped = plan->mapped;
    s->capacity = plan->capacity;
    atomic_init(&s->filled, plan->fill ? 0 : plan->capacity);
    LK_TRY(lk_segment_fill(s, err));
    LK_TRY(lk_index_init(&s->index, plan->env, plan->expected,
                         plan->capacity / LK_RECORD_HEADER_BYTES, err));
    *out = s;
    s = NULL;
done:
    segment_release(s);
    return st;
}

/* What errors call the file from now on. */
static lk_status file_named(lk_file *file, const char *path, lk_error *err)
{
    char *copy = strdup(path);
    if (copy == NULL) return lk_fail_nomem(err, strlen(path));
    free(file->path);
    file->path = copy;
    return LK_OK;
}

/* The same file under its new name, its first bytes cleared so that nobody takes the old header for
 * the new one's; old frames fail under the new nonce. */
static lk_status segment_recycle(const lk_segment_plan *plan, const char *path, lk_segment *s,
                                 lk_error *err)
{
    static const uint8_t ZEROS[LK_SEGMENT_HEADER_BYTES];
    lk_status st = LK_OK;
    LK_ASSERT(atomic_load(&s->refs) == 1);
    LK_TRY(lk_env_unprotect(plan->env, s->base, s->memory_bytes, err));
    LK_TRY(lk_file_write(s->file, 0, ZEROS, sizeof ZEROS, err));
    char from[LK_PATH_MAX];
    lk_segment_path(plan->dir, s->generation, from, sizeof from);
    LK_TRY(lk_env_rename(plan->env, from, path, err));
    LK_TRY(file_named(s->file, path, err));
    LK_TRY(lk_index_clear(&s->index, plan->expected, err));
    lk_order_unref(s->order);
    lk_order_unref(s->live);
    s->order = s->live = NULL;
    lk_tomb_log_clear(&s->tombs);
    atomic_store_explicit(&s->order_bytes, 0, memory_order_relaxed);
    atomic_store_explicit(&s->populated, 0, memory_order_relaxed);
    atomic_store_explicit(&s->evicted, false, memory_order_relaxed);
    s->position = s->tail = s->count = s->link = s->synced = 0;
    atomic_store_explicit(&s->published, 0, memory_order_relaxed);
    atomic_store_explicit(&s->indexed, 0, memory_order_relaxed);
done:
    return st;
}

lk_status lk_segment_prepare(const lk_segment_plan *plan, lk_segment *recycle, lk_segment **out,
                             lk_error *err)
{
    lk_status st = LK_OK;
    char path[LK_PATH_MAX];
    lk_segment *s = recycle;
    *out = NULL;
    lk_segment_path(plan->dir, plan->generation, path, sizeof path);
    if (s != NULL) {
        LK_TRY(segment_recycle(plan, path, s, err));
    } else {
        LK_TRY(segment_create(plan, path, &s, err));
    }
    s->generation = plan->generation;
    s->capacity = plan->capacity;
    lk_env_random(plan->env, &s->nonce, sizeof s->nonce);
    *out = s;
    s = NULL;
done:
    /* What a full disk left half made would keep it full; a file that stays is removed at open. */
    if (st != LK_OK) (void)lk_env_unlink(plan->env, path, NULL);
    segment_release(s);
    return st;
}

lk_status lk_segment_adopt(lk_env *env, const char *path, lk_segment **out, lk_error *err)
{
    lk_segment *s = segment_alloc(env, err);
    *out = NULL;
    if (s == NULL) return LK_NOMEM;
    lk_status st = lk_env_open(env, path, LK_OPEN_READ, &s->file, err);
    if (st == LK_OK) {
        *out = s;
    } else {
        segment_release(s);
    }
    return st;
}

static uint8_t *mark_place(const lk_segment *s)
{
    return s->base + s->memory_bytes - LK_PAGE_BYTES;
}

static void mark(lk_segment *s)
{
    if (!s->mapped) return;
    /* Not before the frame: of a process killed in between, the mark would tell of a loss. */
    atomic_signal_fence(memory_order_seq_cst);
    lk_store64(mark_place(s), s->nonce + s->tail);
    s->marked = true;
}

/* A frame comes by pwrite, and the mark will not know of it. */
static void mark_clear(lk_segment *s)
{
    if (!s->marked) return;
    lk_store64(mark_place(s), s->nonce + LK_MARK_NONE);
    atomic_signal_fence(memory_order_seq_cst);
    s->marked = false;
}

lk_status lk_segment_activate(lk_segment *s, uint64_t base_seq, uint32_t previous_end,
                              uint32_t previous_link, lk_error *err)
{
    uint8_t bytes[LK_SEGMENT_HEADER_BYTES];
    lk_segment_header h = {
        .generation = s->generation,
        .nonce = s->nonce,
        .base_seq = base_seq,
        .capacity = s->capacity,
        .previous_end = previous_end,
        .previous_link = previous_link,
        .marked = s->mapped,
        .boot = lk_boot_number(s->env),
    };
    s->link = lk_segment_header_write(&h, bytes);
    s->base_seq = base_seq;
    s->position = s->tail = LK_SEGMENT_HEADER_BYTES;
    mark(s); /* before the header: a header that is there has a mark that is right */
    /* By pwrite in both backings: the mapping shows it, and it may be synced soon. */
    lk_status st = lk_file_write(s->file, 0, bytes, sizeof bytes, err);
    if (st == LK_OK && !s->mapped) memcpy(s->base, bytes, sizeof bytes);
    return st;
}

static size_t resident_bytes(const lk_segment *s, uint32_t records)
{
    if (!s->mapped) return s->memory_bytes;
    if (atomic_load_explicit(&s->evicted, memory_order_relaxed)) return 0;
    if (s->recovered) return s->position; /* its last record may not be proved yet */
    uint64_t touched = LK_SEGMENT_HEADER_BYTES;
    if (records > 0) {
        lk_record r = lk_segment_record(s, records - 1);
        touched = s->index.entries[records - 1].location +
                  lk_record_bytes(r.tree, r.key_len, r.value_len);
    }
    uint64_t populated = atomic_load_explicit(&s->populated, memory_order_relaxed);
    return (size_t)(populated > touched ? populated : touched);
}

size_t lk_segment_memory(const lk_segment *s)
{
    uint32_t records = atomic_load_explicit(&s->published, memory_order_acquire);
    return resident_bytes(s, records) + s->staging_bytes + lk_index_memory(&s->index) +
           (size_t)records * sizeof(lk_entry) +
           atomic_load_explicit(&s->order_bytes, memory_order_relaxed) +
           atomic_load_explicit(&s->tombs.bytes, memory_order_relaxed);
}

void lk_segment_evict(lk_segment *s)
{
    if (!s->mapped) return;
    atomic_store_explicit(&s->evicted, true, memory_order_relaxed);
    lk_env_evict(s->env, s->base, s->memory_bytes);
}

void lk_segment_ref(lk_segment *s) { atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed); }

void lk_segment_unref(lk_segment *s)
{
    if (s == NULL) return;
    uint32_t before = atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel);
    LK_ASSERT(before > 0);
    if (before == 1) segment_release(s);
}

/* ---- records that wait for their index entry ---- */

#define WAITING 8u /* puts between the prefetch of a slot and its use */

static void link_oldest(lk_segment *s)
{
    uint32_t o = atomic_load_explicit(&s->indexed, memory_order_relaxed);
    uint32_t tag = atomic_load_explicit(&s->pending[o % LK_PENDING_MAX], memory_order_relaxed);
    lk_index_link(&s->index, tag, o);
    atomic_store_explicit(&s->indexed, o + 1, memory_order_release);
}

static void link_later(lk_segment *s, uint32_t tag, uint32_t ordinal, uint32_t location)
{
    lk_index_place(&s->index, ordinal, location);
    atomic_store_explicit(&s->pending[ordinal % LK_PENDING_MAX], tag, memory_order_release);
    if (ordinal - atomic_load_explicit(&s->indexed, memory_order_relaxed) >= WAITING) {
        link_oldest(s);
    }
}

static void link_all(lk_segment *s)
{
    while (atomic_load_explicit(&s->indexed, memory_order_relaxed) < s->count) link_oldest(s);
}

/* ---- appending ---- */

static lk_status staging_reserve(lk_segment *s, uint64_t bytes, lk_error *err)
{
    if (bytes <= s->staging_bytes) return LK_OK;
    uint64_t want = s->staging_bytes == 0 ? 16384 : s->staging_bytes;
    while (want < bytes) want *= 2;
    uint8_t *p = realloc(s->staging, (size_t)want);
    if (p == NULL) return lk_fail_nomem(err, want);
    s->staging = p;
    s->staging_bytes = (size_t)want;
    return LK_OK;
}

lk_status lk_segment_begin(lk_segment *s, uint64_t body_bytes, uint32_t records, bool staged,
                           uint8_t **out, lk_error *err)
{
    LK_ASSERT(records > 0 && body_bytes >= LK_RECORD_HEADER_BYTES);
    *out = NULL;
    if (lk_frame_bytes(body_bytes) > s->capacity - s->position) return LK_FULL;
    link_all(s);
    lk_status st = lk_index_reserve(&s->index, records, err);
    if (st != LK_OK) return st;
    if (staged && s->mapped) {
        st = staging_reserve(s, lk_frame_bytes(body_bytes), err);
        if (st != LK_OK) return st;
        *out = s->staging + LK_FRAME_HEADER_BYTES;
        return LK_OK;
    }
    *out = s->base + s->position + LK_FRAME_HEADER_BYTES;
    return LK_OK;
}

/* One pass over the records of a body that will stand at `location`: their checksums summed, and,
 * with `add`, their index entries made. Range tombstones get none: no key is looked up by them. */
static uint64_t body_walk(lk_segment *s, const uint8_t *body, uint32_t location, uint32_t records,
                          bool add)
{
    uint64_t sum = 0;
    uint32_t tags[BATCH], places[BATCH];
    uint32_t ordinal = s->count, left = records, at = 0;
    while (left > 0) {
        uint32_t n = left < BATCH ? left : BATCH, tombs = 0;
        for (uint32_t i = 0; i < n; i++) {
            lk_record r = lk_record_at(body + at);
            uint64_t hash = lk_hash_key(r.tree, r.key, r.key_len);
            if (LK_UNLIKELY(r.kind == LK_KIND_DELETE_RANGE)) tombs |= 1u << i;
            places[i] = location + at;
            tags[i] = lk_index_tag(hash);
            if (add) lk_index_prefetch(&s->index, tags[i]);
            sum += lk_record_hash(&r, hash, s->nonce, places[i]);
            at += (uint32_t)lk_record_bytes(r.tree, r.key_len, r.value_len);
        }
        if (add) {
            for (uint32_t i = 0; i < n; i++) {
                if (LK_UNLIKELY(tombs >> i & 1)) {
                    lk_index_place(&s->index, ordinal + i, places[i]);
                    lk_tomb_log_add(s, ordinal + i);
                } else {
                    lk_index_add(&s->index, tags[i], ordinal + i, places[i]);
                }
            }
        }
        ordinal += n;
        left -= n;
    }
    return sum;
}

static uint32_t header_write(const lk_segment *s, uint8_t *out, uint32_t length, uint32_t body_hash)
{
    uint64_t w0 = (uint64_t)length | (uint64_t)s->count << 32;
    uint64_t w1 = (uint64_t)(s->synced / 8) | (uint64_t)s->link << 32;
    uint32_t hash = lk_frame_header_hash(lk_frame_seed(s->nonce, s->position), w0, w1, body_hash);
    lk_store64(out, w0);
    lk_store64(out + 8, w1);
    lk_store64(out + 16, (uint64_t)body_hash | (uint64_t)hash << 32);
    return hash;
}

/* The page that holds the header goes last: a process that is killed between two pages of a pwrite
 * then leaves no valid header over a broken body either. What a failed write may have left is
 * blotted out, as well as can be; the store writes nothing more after it. */
static lk_status frame_write(lk_segment *s, const uint8_t *frame, uint32_t bytes, lk_error *err)
{
    static const uint8_t BLANK[LK_FRAME_HEADER_BYTES];
    lk_status st = LK_OK;
    uint32_t first = LK_PAGE_BYTES - s->position % LK_PAGE_BYTES;
    if (first < LK_FRAME_HEADER_BYTES) first += LK_PAGE_BYTES;
    if (first < bytes) {
        st = lk_file_write(s->file, s->position + first, frame + first, bytes - first, err);
        if (st != LK_OK) return st;
        bytes = first;
    }
    st = lk_file_write(s->file, s->position, frame, bytes, err);
    if (st != LK_OK) (void)lk_file_write(s->file, s->position, BLANK, sizeof BLANK, NULL);
    return st;
}

static void publish(lk_segment *s, uint32_t frame_bytes, uint32_t records, uint32_t link)
{
    s->position += frame_bytes;
    s->tail = s->position;
    s->count += records;
    s->link = link;
    atomic_store_explicit(&s->published, s->count, memory_order_release);
}

lk_status lk_segment_commit(lk_segment *s, uint64_t body_bytes, uint32_t records, bool staged,
                            lk_error *err)
{
    bool by_pwrite = staged || !s->mapped, aside = staged && s->mapped;
    uint32_t length = (uint32_t)body_bytes, bytes = (uint32_t)lk_frame_bytes(body_bytes);
    uint32_t body_at = s->position + LK_FRAME_HEADER_BYTES;
    uint8_t *frame = aside ? s->staging : s->base + s->position;
    uint8_t *body = frame + LK_FRAME_HEADER_BYTES;
    memset(body + length, 0, bytes - LK_FRAME_HEADER_BYTES - length);
    uint64_t sum = body_walk(s, body, body_at, records, !by_pwrite);
    /* The header must not be there before the body: a killed process then leaves no valid header
     * over a broken body. */
    atomic_signal_fence(memory_order_seq_cst);
    uint32_t hash = header_write(s, frame, length, lk_frame_body_hash(sum));
    if (by_pwrite) {
        mark_clear(s);
        lk_status st = frame_write(s, frame, bytes, err);
        if (st != LK_OK) return st;
        (void)body_walk(s, s->base + body_at, body_at, records, true);
    }
    atomic_store_explicit(&s->indexed, s->count + records, memory_order_release);
    publish(s, bytes, records, hash);
    if (!aside) mark(s);
    return LK_OK;
}

lk_status lk_segment_put(lk_segment *s, uint32_t tree, lk_kind kind, const uint8_t *key,
                         uint32_t key_len, const uint8_t *value, uint32_t value_len, uint64_t hash,
                         lk_error *err)
{
    uint64_t length = lk_record_bytes(tree, key_len, value_len);
    uint64_t bytes = lk_frame_bytes(length);
    LK_ASSERT(s->mapped && kind != LK_KIND_DELETE_RANGE);
    if (LK_UNLIKELY(bytes > s->capacity - s->position)) return LK_FULL;
    if (LK_UNLIKELY(lk_index_reserve(&s->index, WAITING + 1, err) != LK_OK)) return LK_NOMEM;
    lk_index_prefetch(&s->index, lk_index_tag(hash));
    uint32_t location = s->position + LK_FRAME_HEADER_BYTES;
    uint8_t *frame = s->base + s->position;
    uint64_t head = lk_record_head(tree, kind, key_len, value_len);
    uint64_t sum = lk_record_hash_parts(head, hash, value, value_len, s->nonce, location);
    lk_store64(frame + bytes - 8, 0); /* the padding; the record is written over the rest */
    (void)lk_record_write(frame + LK_FRAME_HEADER_BYTES, tree, kind, key, key_len, value,
                          value_len);
    atomic_signal_fence(memory_order_seq_cst);
    uint32_t link = header_write(s, frame, (uint32_t)length, lk_frame_body_hash(sum));
    link_later(s, lk_index_tag(hash), s->count, location);
    publish(s, (uint32_t)bytes, 1, link);
    mark(s);
    return LK_OK;
}

/* ---- reading ---- */

static bool is_record_of(const lk_segment *s, uint32_t ordinal, uint32_t tree, const uint8_t *key,
                         size_t key_len, lk_record *out)
{
    *out = lk_record_at(s->base + s->index.entries[ordinal].location);
    return out->tree == tree && lk_bytes_equal(out->key, out->key_len, key, key_len);
}

/* From ordinal at - 1 (at 0: none) to older ones. */
static inline bool find_in_chain(const lk_segment *s, uint32_t at, uint32_t tree,
                                 const uint8_t *key, size_t key_len, lk_record *out,
                                 uint32_t *out_ordinal)
{
    for (; at != 0; at = s->index.entries[at - 1].previous) {
        if (is_record_of(s, at - 1, tree, key, key_len, out)) {
            *out_ordinal = at - 1;
            return true;
        }
    }
    return false;
}

bool lk_segment_find(const lk_segment *s, uint32_t tree, const uint8_t *key, size_t key_len,
                     uint64_t hash, uint32_t visible, lk_record *out, uint32_t *out_ordinal)
{
    uint32_t tag = lk_index_tag(hash);
    uint32_t linked = atomic_load_explicit(&s->indexed, memory_order_acquire);
    for (uint32_t o = visible; o > linked; o--) {
        const _Atomic(uint32_t) *at = &s->pending[(o - 1) % LK_PENDING_MAX];
        if (atomic_load_explicit(at, memory_order_acquire) != tag) continue;
        /* A record that was linked since may have lost its place to a younger one with this tag,
         * and so may those behind it: the index knows them all. */
        if (atomic_load_explicit(&s->indexed, memory_order_acquire) >= o) break;
        if (is_record_of(s, o - 1, tree, key, key_len, out)) {
            *out_ordinal = o - 1;
            return true;
        }
    }
    uint32_t at = lk_index_head(&s->index, tag);
    while (at > visible) at = s->index.entries[at - 1].previous;
    return find_in_chain(s, at, tree, key, key_len, out, out_ordinal);
}

bool lk_segment_find_older(const lk_segment *s, uint32_t tree, const uint8_t *key, size_t key_len,
                           uint64_t hash, uint32_t ordinal, lk_record *out, uint32_t *out_ordinal)
{
    if (ordinal >= atomic_load_explicit(&s->indexed, memory_order_acquire)) {
        return lk_segment_find(s, tree, key, key_len, hash, ordinal, out, out_ordinal);
    }
    return find_in_chain(s, s->index.entries[ordinal].previous, tree, key, key_len, out,
                         out_ordinal);
}
