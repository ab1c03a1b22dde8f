/* prove.h: a log segment of which only the end was looked at when the store was opened.
 *
 * Where the kernel still has what a killed process stored, the end of the log is known to the byte,
 * and the log before it is whole, or damaged: nothing is left to judge. So a large segment is given
 * out at once, and proved afterwards: every checksum, that the frames are one chain, and the index.
 * Whoever needs an answer meanwhile helps, and waits; nothing is read that was not proved.
 *
 *   +--------+---------+---------+--------- ... ---------+---------+
 *   | header | piece 0 | piece 1 |                       |    last |   the end was seen at open
 *   +--------+---------+---------+--------- ... ---------+---------+
 *                                  <- proved and indexed, from the end backwards
 *
 * A piece begins at the first whole frame in it, which is searched for, so that pieces are proved in
 * any order and by several threads. They are joined from the newest to the oldest, each when it is known
 * to go on where the one behind it begins, and indexed some at a time. So a key that is found was
 * proved, and is its newest version, long before all of the segment is.
 *
 * Owns      lk_proof belongs to its segment.
 * Callers   recover.c makes it; view.c, flush.c and write.c need it done.
 * Threads   any; `lock` guards the index until the segment is proved.
 * Always    until then nothing of the segment may be touched but through here.
 * Errors    LK_CORRUPT with the place where the log breaks off; the same again for who comes later.
 */
#ifndef LK_PROVE_H
#define LK_PROVE_H

#include "segment.h"

typedef struct lk_proof lk_proof;

/* Of a segment whose end is set (`count`, `position`, `link`), whose memory is mapped and whose index
 * is not yet made. `first_link` is that of its header. */
lk_status lk_proof_new(lk_segment *s, uint32_t first_link, uint32_t piece_bytes, lk_error *err);
void lk_proof_free(lk_proof *p); /* NULL is accepted */

/* Whether there is something left to prove, or damage was found. */
bool lk_proof_is_open(const lk_segment *s);

/* Returns when all of the segment is proved; works on it itself. Blocks. */
lk_status lk_proof_finish(lk_segment *s, lk_error *err);

/* As lk_segment_find, of a segment that is being proved: returns as soon as the newest record of the
 * key among the first `visible` is known, and that no range tombstone is newer; or when all is proved.
 * Blocks. */
lk_status lk_proof_find(lk_segment *s, uint32_t tree, const uint8_t *key, size_t key_len,
                        uint64_t hash, uint32_t visible, bool *out_found, lk_record *out,
                        uint32_t *out_ordinal, lk_error *err);

#endif
