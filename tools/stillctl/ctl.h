/* tools/stillctl/ctl.h - what the commands of stillctl share. One thread; everything may block as the
 * control files do. A command returns stillctl's exit code: 0 done; 1 refused or failed, said on stderr; 2
 * wrong usage. A command has a file of its own, cmd_NAME.c, but the small ones, which are in basic.c, and
 * one line in the table of main.c; a test compares help, man page and completion with that table. */
#ifndef STILLFS_TOOLS_CTL_H
#define STILLFS_TOOLS_CTL_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#define CTL_RUN_DIR "/run/stillfs"
#define CTL_COMMAND_MAX 8192 /* bytes that a control file takes at once */

struct command {
	const char *name, *args, *help;
	int (*run)(int argc, char **argv); /* arguments after the command's name */
	int min, max; /* arguments */
	bool alone; /* works without a running stillfs, or says itself that there is none; ctl_dir may be empty then */
};

extern char ctl_dir[PATH_MAX - 300]; /* of the control tree */
extern bool ctl_json, ctl_color; /* --json; stdout is a terminal that may have colours */

/* Say "stillctl: ", fmt and a on stderr; returns 1. */
int ctl_fail(const char *fmt, const char *a);
/* Open a control file; a descriptor, or -1: errno. */
int ctl_open(const char *rel, int flags);
/* The whole file, malloc'ed; NULL: errno. */
char *ctl_slurp(const char *rel);
/* Say why an operation was refused: the sentence of last_error if it is about this, or the errno alone. */
int ctl_refused(const char *what, int error);
/* Write a command into a control file; on refusal say why. */
int ctl_write(const char *rel, const char *text);
int ctl_print(const char *rel);
/* "key value" lines as one JSON object; a key that comes twice becomes an array. */
int ctl_print_json(const char *rel);
/* 0 when it may be a set's name; else says that it is not. */
int ctl_check_name(const char *name);
/* Find the only running stillfs when ctl_dir is empty, and ask whether it answers; else says why not. */
int ctl_find(void);

/* Wait for the end of a rescan; show: print what it found. */
int ctl_rescan_wait(bool show);
/* Have a set verified, follow it, say the result: 0 it is good, 1. cmd_verify.c */
int ctl_verify(const char *name);

/* The value of `key` in a flat-keyed control file, malloc'ed; NULL: not there. */
char *ctl_key(const char *rel, const char *key);
/* Where another program of stillfs is: beside this one, where it was installed, or in the build. Else says that it is not. */
int ctl_program(const char *name, char *path, size_t cap);
/* --provider, --region, --lineage: run c with a stillfs that serves the catalog alone. Its exit code, or -1: it could not be
 * run, or was killed; why is said. */
struct ctl_remote {
	const char *provider, *region, *lineage;
};
int ctl_run_remote(const struct ctl_remote *r, const struct command *c, int argc, char **argv);

/* Become the program stillfs-ebs, for set argv[0]. Returns only when it cannot be started. */
int ctl_ebs(const char *command, int argc, char **argv);

int cmd_restore_local(int argc, char **argv);
int cmd_restore_ebs(int argc, char **argv);
int cmd_copy(int argc, char **argv);
int cmd_cutover(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_list(int argc, char **argv);
int cmd_show(int argc, char **argv);
int cmd_gate(int argc, char **argv);
int cmd_abort(int argc, char **argv);
int cmd_events(int argc, char **argv);
int cmd_rescan(int argc, char **argv);
int cmd_retention(int argc, char **argv);
int cmd_prune(int argc, char **argv);
int cmd_pin(int argc, char **argv);
int cmd_unpin(int argc, char **argv);
int cmd_check(int argc, char **argv);
/* With --provider: main.c's whole cmd_check. Its codes, also when no catalog can be served. */
int check_remote(const struct ctl_remote *r, const struct command *c, int argc, char **argv);
int cmd_delete(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_fence(int argc, char **argv);
int cmd_upgrade(int argc, char **argv);
int cmd_provider_test(int argc, char **argv);

#endif
