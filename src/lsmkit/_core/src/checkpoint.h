/* checkpoint.h: a copy of a store at one moment: a store of its own, made of hard links.
 *
 * What the log holds is flushed first, so that tables are all there is: a checkpoint has no log.
 * Its manifest has the source's identity and says that it is a checkpoint; whoever opens it to write
 * gives it an identity of its own, so that what has its source's is as the source made it.
 *
 *   fresh   files in "<path>.making", synced; rename to <path>; sync of its directory
 *   onto    links of what is new, synced; a new manifest; CURRENT; then what is old goes
 *
 * Threads   any; writers and background work of the source go on.
 * Errors    LK_EXISTS: something else is there; LK_LOCKED: it is open. Nothing is changed then.
 */
#ifndef LK_CHECKPOINT_H
#define LK_CHECKPOINT_H

#include "store.h"

/* Everything acknowledged before the call; durable when it returns. `path` of machine `to` is where it
 * is made, or an older checkpoint of the same store. A crash leaves at `path` what was there, or the
 * whole. */
lk_status lk_store_checkpoint(lk_store *s, lk_env *to, const char *path, lk_error *err);

#endif
