/* fs/recover.h - what a new daemon does with the tables of a dead one, before it serves. On one thread. */
#ifndef STILLFS_FS_RECOVER_H
#define STILLFS_FS_RECOVER_H

#include "fs/tables.h"

/* Repair the tables: finish what was begun, undo what the kernel was not told. May be repeated after a death in
 * its midst. */
void recover_tables(const struct tables *t);
/* Close every descriptor that no table names. hold: leave those of files on one of the `n` devices open and
 * return them, their number in *n_held (freed by the caller): the gate is closed, and a close may write. */
int *recover_descriptors(const struct tables *t, bool hold, const uint64_t *devs, unsigned n, size_t *n_held);
/* Wait until the io_urings of dead daemons are gone with all they had in flight: an old write could otherwise
 * land on a newer one, and an old poll take a request's wake-up. 0 or -ETIMEDOUT. */
int recover_wait_rings(struct shm_head *head, uint32_t max_ms);
/* Does the kernel still wait for the reply to this request, read from dev_fd? Asks without effect. */
bool recover_waiting(int dev_fd, uint64_t unique);
/* Have the kernel send again what was read and not answered: of one connection, of all mounts. */
void recover_resend_one(const struct shm_mnt *m);
void recover_resend(struct shm_head *head);

#endif
