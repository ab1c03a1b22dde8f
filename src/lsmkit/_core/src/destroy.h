/* destroy.h: the end of a store: its files go, those of others stay.
 *
 * Threads   any; takes the directory's lock.
 */
#ifndef LK_DESTROY_H
#define LK_DESTROY_H

#include "env.h"
#include "file_names.h"
#include "status.h"

/* Removes the files of the store in `dir`, and then the directory where nothing else is in it.
 * CURRENT goes first, so that after a crash in between there is no store, and this can be called
 * again. LK_NOT_FOUND where there is none, LK_LOCKED while it is open. */
lk_status lk_store_destroy(lk_env *env, const char *dir, lk_error *err);

/* Removes the files of one kind in `dir`; those that are gone already are no error. */
lk_status lk_files_remove(lk_env *env, const char *dir, const lk_names *names, lk_file_kind kind,
                          lk_error *err);

#endif
