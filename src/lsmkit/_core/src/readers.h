/* readers.h: readers in other processes, and what a store's owner keeps for them.
 *
 * A reader registers in the directory `readers` of the store, before it reads the manifest:
 *
 *   readers/9c1f0e7a52b3d846.lock     locked as long as the reader lives
 *   readers/9c1f0e7a52b3d846.pin      the versions that it reads; FORMAT.md has the bytes
 *
 * The owner looks there after each edit: if somebody may read the version before it, it holds that
 * version, and with it all of its files, until nobody does. A reader whose lock is free is dead, and
 * its files are removed. While a reader opens the store or moves on, it pins everything, and then log
 * files are not recycled or removed either.
 *
 * Why it is enough to look after the edit: a reader that registers later than the look reads a
 * manifest that has the edit.
 *
 * Owns      a lk_registration its lock and files; lk_readers references to the versions held.
 * Callers   store.c and refresh.c in a reader; store.c and background.c in the owner.
 * Threads   a registration: one at a time. lk_readers: any.
 */
#ifndef LK_READERS_H
#define LK_READERS_H

#include "lock.h"
#include "version.h"

/* ---- in a reader ---- */

typedef struct lk_registration lk_registration;

enum { LK_PIN_VERSIONS_MAX = 62 };

/* Pins everything. *out is NULL where nothing can be written or locked: then nobody knows of the
 * reader, and it must hold its files open. Never fails but for memory. */
lk_status lk_registration_new(lk_env *env, const char *dir, lk_registration **out, lk_error *err);
/* From now on these versions alone; everything, when there are none or too many. After an error what
 * was pinned before is pinned, or everything. */
lk_status lk_registration_pin(lk_registration *r, const uint64_t *versions, size_t count,
                              lk_error *err);
void lk_registration_free(lk_registration *r); /* NULL is accepted */

/* ---- in the owner ---- */

typedef struct lk_readers {
    /* fixed */
    lk_env *env;
    char *dir;
    /* guarded by `lock` */
    lk_lock lock;
    lk_version **held; /* replaced, and perhaps read by somebody; with a reference each */
    size_t held_count, held_capacity;
    lk_version *found; /* at open, while versions before it may be read; else NULL */
    char **left;       /* files of those versions that `found` does not have; owned */
    size_t left_count, left_capacity;
} lk_readers;

lk_status lk_readers_init(lk_readers *r, lk_env *env, const char *dir, lk_error *err);
/* What is held goes: files that somebody may still read stay, and the next owner removes them. */
void lk_readers_deinit(lk_readers *r);

/* An edit has replaced this version: holds it when somebody may read it. */
void lk_readers_hold(lk_readers *r, lk_version *old);
/* At open: whether somebody may read versions before this one, of an earlier owner. Then this one,
 * which has those of their files that are live, is held as long. */
bool lk_readers_begin(lk_readers *r, lk_version *found);
/* One of their files that is live no more, found at open: it stays as long, and then is removed. */
lk_status lk_readers_leave(lk_readers *r, const char *path, lk_error *err);
/* Whether somebody is just opening the store or moving on. */
bool lk_readers_arrive(lk_readers *r);
/* Lets go of what nobody reads any more. */
void lk_readers_sweep(lk_readers *r);

/* ---- in who changes a store that is not open ---- */

/* Whether somebody may read versions before this one. */
bool lk_readers_before(lk_env *env, const char *dir, uint64_t number);
/* LK_LOCKED, by one of them, while anybody reads the store; else what dead readers left is removed. */
lk_status lk_readers_end(lk_env *env, const char *dir, lk_error *err);

#endif
