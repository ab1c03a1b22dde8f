/* segment.h: the live log: a file that is WAL and memtable at once.
 *
 * Mapped backing: the file is mapped and frames are plain stores into it; frames that must be synced
 * are staged and go by pwrite, because a synced page is write-protected again. Written backing: the
 * memory is anonymous and each frame is pwritten. The bytes are the same (FORMAT.md, "Log").
 *
 *   0        64                                           capacity     + 4096
 *   +--------+-------------------------------------------+------------+
 *   | header | frames, each aligned to 8                  | mark page  |
 *   +--------+-------------------------------------------+------------+
 *
 * The header is one aligned piece of 64 bytes, so that no disk writes a part of it.
 *
 * The mark page holds the end of the last published frame of a mapped segment, stored with each
 * frame: it is exact as long as the kernel lives, so in the same boot a lost last frame is seen. A
 * frame that goes by pwrite does not store it, because that would be one more page for its sync; the
 * first one after a stored frame sets the mark to LK_MARK_NONE instead, which says nothing.
 *
 * Owns      file, memory, index, sorted order.
 * Callers   store.c appends and freezes; view.c and cursor.c read; flush.c drains.
 * Threads   one writer, holding store.write_lock; readers need no lock.
 * Always    bytes of published records do not change until the segment is recycled;
 *           ordinals below `published` are readable.
 * Errors    LK_FULL: freeze, retry. LK_IO: the store turns read-only.
 */
#ifndef LK_SEGMENT_H
#define LK_SEGMENT_H

#include <stdatomic.h>

#include "env.h"
#include "hash.h"
#include "index.h"
#include "lock.h"
#include "record.h"
#include "status.h"
#include "tomb_log.h"

#define LK_SEGMENT_HEADER_BYTES 64u
#define LK_FRAME_HEADER_BYTES 24u
#define LK_SEGMENT_BYTES_MIN 4096u
#define LK_SEGMENT_BYTES_MAX (UINT32_MAX - 65536u)
#define LK_MARK_NONE 0u /* as a mark: frames may stand behind the last one that was marked */

struct lk_order;
struct lk_proof;

#define LK_PENDING_MAX 16u /* records that may wait for their index entry; a power of two */

typedef struct lk_segment {
    _Atomic uint32_t refs;
    _Atomic(uint32_t) published; /* release: after the records and their entries */
    _Atomic(uint32_t) indexed;   /* release: ordinals below are linked; the next ones wait */
    lk_tomb_log tombs;           /* the range tombstones among its records */
    /* Tag of ordinal o at [o % LK_PENDING_MAX], while o waits. Release, and a place is used again
     * only after its record was linked: who finds another tag here finds the record in the index. */
    _Atomic(uint32_t) pending[LK_PENDING_MAX];

    /* fixed from activation to recycling */
    lk_env *env;
    lk_file *file;
    uint64_t generation;
    uint64_t nonce;
    uint64_t base_seq; /* sequence of ordinal 0 */
    uint8_t *base;
    size_t memory_bytes; /* of the mapping */
    uint32_t capacity;   /* frames end here at the latest */
    bool mapped;
    bool recovered; /* read back at open: never appended to, never recycled */
    bool kept;      /* flushed, and its file stays as history (history.h). Before its last unref */

    lk_index index;

    /* guarded by store.write_lock */
    uint32_t position; /* where the next frame begins */
    uint32_t tail;     /* end of the last frame; position is on the next page after a sync */
    uint32_t count;    /* ordinals given */
    uint32_t link;     /* hash of the last frame's header, or of the segment's */
    bool marked;       /* the mark page holds `tail`, not LK_MARK_NONE */
    uint8_t *staging;  /* for frames that are pwritten into a mapped segment */
    size_t staging_bytes;

    /* Up to here the file's blocks were written once, with zeros, and synced, so that the fdatasync of
     * a frame has no extents to convert: 105 against 142 µs. Release, by the keeper, ahead of the
     * writer, who does not pass it; the capacity where frames are not synced. */
    _Atomic(uint32_t) filled;

    /* Written by the keeper alone, read by statistics: pages up to here were made present; the
     * segment was flushed, and its pages have left the process. */
    _Atomic(uint64_t) populated;
    atomic_bool evicted;
    uint32_t synced; /* bytes known to be durable: an fdatasync returned 0 */

    /* guarded by order_lock: the sorted orders made so far, see order.h */
    lk_lock order_lock;
    struct lk_order *order;      /* of all records */
    struct lk_order *live;       /* without those that range tombstones hide; NULL: not made yet */
    _Atomic(size_t) order_bytes; /* memory of both, for statistics */

    struct lk_proof *proof; /* of what was given out before it was proved, see prove.h; NULL: - */
} lk_segment;

/* The seed of all checksums of a frame: where it stands, and in which life of the file. */
static inline uint64_t lk_frame_seed(uint64_t nonce, uint32_t offset)
{
    return nonce + (uint64_t)offset * UINT64_C(0x9E3779B185EBCA87);
}

static inline lk_record lk_segment_record(const lk_segment *s, uint32_t ordinal)
{
    return lk_record_at(s->base + s->index.entries[ordinal].location);
}

/* Bytes of the file of a flushed segment that is kept: its frames, to the end of their page, and one
 * page more, which ends with nonce + tail. Readers in other processes may have mapped the place where
 * a next frame would begin, and a mapping must not lose the page that is looked at. */
static inline uint64_t lk_segment_kept_bytes(uint64_t tail)
{
    return lk_align_up(tail, LK_PAGE_BYTES) + LK_PAGE_BYTES;
}

/* Whether any range tombstone is among the records that `published` shows. */
static inline bool lk_segment_has_tombs(const lk_segment *s)
{
    return atomic_load_explicit(&s->tombs.last, memory_order_relaxed) != 0;
}

/* Finds the newest record of (tree, key) among the first `visible` ones; false when there is none.
 * Lock-free. */
bool lk_segment_find(const lk_segment *s, uint32_t tree, const uint8_t *key, size_t key_len,
                     uint64_t hash, uint32_t visible, lk_record *out, uint32_t *out_ordinal);
/* The same among those older than `ordinal`, which was found for this key: one step along its chain. */
bool lk_segment_find_older(const lk_segment *s, uint32_t tree, const uint8_t *key, size_t key_len,
                           uint64_t hash, uint32_t ordinal, lk_record *out, uint32_t *out_ordinal);

/* ---- life of a segment ---- */

typedef struct lk_segment_plan {
    lk_env *env;
    const char *dir;
    uint64_t generation;
    uint32_t capacity;
    uint32_t expected; /* records: sizes the index */
    bool mapped;
    bool fill; /* its frames will be synced: see `filled` */
} lk_segment_plan;

/* A segment ready to be activated: file with real blocks, memory, index. `recycle` (NULL: none) is a
 * retired segment of the same capacity and backing that nobody else holds: its file is renamed and
 * its memory kept; it is consumed, also when this fails. The caller syncs the directory. */
lk_status lk_segment_prepare(const lk_segment_plan *plan, lk_segment *recycle, lk_segment **out,
                             lk_error *err);

/* Writes the header: from here on the segment is part of the log, behind `previous_end` and
 * `previous_link` of the segment before (both 0: the log begins here). */
lk_status lk_segment_activate(lk_segment *s, uint64_t base_seq, uint32_t previous_end,
                              uint32_t previous_link, lk_error *err);

/* Fills the next piece; the capacity is reached when nothing is left. Called ahead of the writer. */
lk_status lk_segment_fill(lk_segment *s, lk_error *err);

/* An empty shell around an existing log file, opened for reading; recover.c fills it. */
lk_status lk_segment_adopt(lk_env *env, const char *path, lk_segment **out, lk_error *err);

void lk_segment_path(const char *dir, uint64_t generation, char *out, size_t out_bytes);
/* What it holds in memory, with its index and its order: of the mapping what was touched. */
size_t lk_segment_memory(const lk_segment *s);
/* Keeper: takes a flushed segment's pages out of the process, until somebody reads them again, or it
 * is recycled. */
void lk_segment_evict(lk_segment *s);

/* ---- appending; the caller holds store.write_lock ---- */

/* Bytes that a frame with `body` bytes takes. */
static inline uint64_t lk_frame_bytes(uint64_t body)
{
    return lk_align_up(LK_FRAME_HEADER_BYTES + body, 8);
}

/* Where the body of the next frame is to be written: the segment itself, or staging memory when the
 * frame goes by pwrite (`staged`). LK_FULL when it does not fit; nothing is changed until
 * lk_segment_commit. */
lk_status lk_segment_begin(lk_segment *s, uint64_t body_bytes, uint32_t records, bool staged,
                           uint8_t **out, lk_error *err);
/* Completes the frame whose body was written where lk_segment_begin said: checksums, header, pwrite,
 * index, and publishes its records. */
lk_status lk_segment_commit(lk_segment *s, uint64_t body_bytes, uint32_t records, bool staged,
                            lk_error *err);
/* A frame of one record in a mapped segment, hashed from the caller's bytes: the hot path. Not of a
 * range tombstone. */
lk_status lk_segment_put(lk_segment *s, uint32_t tree, lk_kind kind, const uint8_t *key,
                         uint32_t key_len, const uint8_t *value, uint32_t value_len, uint64_t hash,
                         lk_error *err);

/* Writes a record whose value has a head at `to`, and gives the place behind it. */
static inline uint8_t *lk_record_write_headed(uint8_t *to, uint32_t tree, lk_kind kind,
                                              const uint8_t *key, size_t key_len,
                                              const uint8_t *head, size_t head_len,
                                              const uint8_t *value, size_t value_len)
{
    lk_store64(to, lk_record_head(tree, kind, key_len, head_len + value_len));
    to += LK_RECORD_HEADER_BYTES;
    if (tree != 0) {
        lk_store32(to, tree);
        to += 4;
    }
    if (key_len != 0) memcpy(to, key, key_len);
    to += key_len;
    if (head_len != 0) memcpy(to, head, head_len);
    to += head_len;
    if (value_len != 0) memcpy(to, value, value_len);
    return to + value_len;
}

static inline uint8_t *lk_record_write(uint8_t *to, uint32_t tree, lk_kind kind, const uint8_t *key,
                                       size_t key_len, const uint8_t *value, size_t value_len)
{
    return lk_record_write_headed(to, tree, kind, key, key_len, NULL, 0, value, value_len);
}

/* ---- reading a log back (frame.c) ---- */

typedef struct lk_segment_header {
    uint64_t generation, nonce, base_seq;
    uint64_t boot; /* lk_boot_number of the machine's boot id; 0: not known */
    uint32_t capacity, previous_end, previous_link, link;
    bool marked; /* the mark page is kept */
} lk_segment_header;

typedef enum lk_frame_state {
    LK_FRAME_NONE,   /* no valid header here */
    LK_FRAME_BROKEN, /* a valid header, and a body that is not what was written */
    LK_FRAME_WHOLE,
} lk_frame_state;

typedef struct lk_frame {
    uint32_t offset, length; /* length: bytes of the body */
    uint32_t ordinal;        /* of its first record */
    uint32_t records, tombs; /* of LK_FRAME_WHOLE; tombs: those that are range tombstones */
    uint32_t synced_upto;    /* bytes */
    uint32_t link, own_hash;
    uint32_t body_expected, body_found;
} lk_frame;

/* LK_CORRUPT when the bytes are no header, LK_UNSUPPORTED when they are one of another version. */
lk_status lk_segment_header_parse(const uint8_t *bytes, const char *path, lk_segment_header *out,
                                  lk_error *err);
/* Looks for a frame at `offset` of a segment in memory; reads nothing at or behind `end`. */
lk_frame_state lk_frame_parse(const uint8_t *base, uint32_t end, uint64_t nonce, uint32_t offset,
                              lk_frame *out);
/* The same, and of each record of a frame the tag of its key and its place, as the index wants them;
 * both arrays have room for (end - offset) / LK_RECORD_HEADER_BYTES. */
lk_frame_state lk_frame_read(const uint8_t *base, uint32_t end, uint64_t nonce, uint32_t offset,
                             uint32_t *tags, lk_entry *entries, lk_frame *out);
/* Whether these bytes are the header of a frame at `offset` that continues a chain. */
bool lk_frame_header_is_next(const uint8_t *bytes, size_t n, uint64_t nonce, uint32_t offset,
                             uint32_t link, uint32_t ordinal);
/* The header alone: cheap, for scanning. */
bool lk_frame_header_parse(const uint8_t *base, uint32_t end, uint64_t nonce, uint32_t offset,
                           lk_frame *out);

/* Proves the checksums of the first `records` records again; `out_bytes` (may be NULL) counts. */
lk_status lk_segment_verify(const lk_segment *s, uint32_t records, uint64_t *out_bytes,
                            lk_error *err);

/* Publishes what was read back. */
static inline void lk_segment_show(lk_segment *s)
{
    atomic_store_explicit(&s->indexed, s->count, memory_order_release);
    atomic_store_explicit(&s->published, s->count, memory_order_release);
}

/* How many ordinals a reader at `seq` may see. */
static inline uint32_t lk_segment_visible(const lk_segment *s, uint64_t seq)
{
    uint32_t n = atomic_load_explicit(&s->published, memory_order_acquire);
    if (seq < s->base_seq) return 0;
    uint64_t upto = seq - s->base_seq + 1;
    return seq == UINT64_MAX || upto > n ? n : (uint32_t)upto;
}

void lk_segment_ref(lk_segment *s);
void lk_segment_unref(lk_segment *s); /* NULL is accepted */

#endif
