/* view.h: what a reader holds: the live segments, the version, and what their rows mean, pinned together.
 *
 * Owns      references to its segments, its version and the settings of its trees.
 * Threads   immutable; `refs` is atomic. Inside a guard section the store's current view may be used
 *           without a reference.
 */
#ifndef LK_VIEW_H
#define LK_VIEW_H

#include <stdatomic.h>

#include "guard.h"
#include "segment.h"
#include "settings.h"
#include "version.h"

struct lk_gap_memory;

typedef struct lk_view {
    _Atomic uint32_t refs;
    uint32_t segment_count;
    lk_version *version;
    lk_settings *settings;
    bool unproved;     /* some segment is not proved yet: nothing is to be taken from it directly */
    uint64_t last_seq; /* the last sequence in tables. Set before others see it */
    struct lk_gap_memory *gaps; /* the store's, see gap.h; NULL: none. Set before others see it */
    lk_segment *segments[];     /* newest first */
} lk_view;

/* Takes references to all that it is given. NULL: no memory. */
lk_view *lk_view_new(lk_segment *const *segments, uint32_t count, lk_version *version,
                     lk_settings *settings);
void lk_view_ref(lk_view *v);
void lk_view_unref(lk_view *v); /* NULL is accepted */

/* Waits until all segments are proved (prove.h), and helps; before a segment of a view is read in any
 * other way than by the functions below. Returns at once when they are. */
lk_status lk_view_prove(const lk_view *v, lk_error *err);

typedef enum lk_lookup {
    LK_LOOKUP_ABSENT, /* never written, deleted, or expired */
    LK_LOOKUP_VALUE,
    LK_LOOKUP_BLOCKED, /* a file must be read, or operands folded: lk_view_fetch, outside the
                          guard section */
} lk_lookup;

typedef struct lk_answer {
    lk_bytes value; /* of LK_LOOKUP_VALUE */
    uint64_t seq;   /* of the newest visible version, a delete included */
} lk_answer;

/* The sequence of the newest range tombstone over a key that `seq` sees; 0: there is none. */
uint64_t lk_view_cover(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                       uint64_t seq);

/* The value of a key as of `seq`. Never blocks: to be called inside a guard section, and the value
 * is good until that ends. */
lk_lookup lk_view_get(const lk_view *v, uint32_t tree, const uint8_t *key, size_t key_len,
                      uint64_t hash, uint64_t seq, lk_answer *out);

/* Whether a segment younger than `generation` holds a version of the key, or may, because it is not
 * proved yet. */
bool lk_view_has_newer(const lk_view *v, uint64_t generation, uint32_t tree, const uint8_t *key,
                       size_t key_len, uint64_t hash);

/* The same as lk_view_get for `n` keys (at most LK_VIEW_KEYS_MAX), whose waits for memory overlap. */
#define LK_VIEW_KEYS_MAX 128u
void lk_view_get_many(const lk_view *v, uint32_t tree, uint32_t n, const lk_bytes *keys,
                      const uint64_t *hashes, uint64_t seq, lk_lookup *out_found, lk_answer *out);

/* The same as lk_view_get, reading tables and blocks that are not in memory, and folding operands.
 * Outside guard sections; the caller pins the view. A value that stands in a block comes with a
 * reference to the block; one that was made stands in a block of its own. */
lk_status lk_view_fetch(const lk_view *v, lk_guard *guard, uint32_t tree, const uint8_t *key,
                        size_t key_len, uint64_t hash, uint64_t seq, lk_lookup *out_found,
                        lk_answer *out, lk_block **out_block, lk_error *err);

#endif
