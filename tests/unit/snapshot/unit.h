/* tests/unit/snapshot/unit.h - cmocka with its includes, and what every program here needs: a scratch
 * directory, waiting for a condition, small files. */
#ifndef STILLFS_TESTS_UNIT_H
#define STILLFS_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* The condition, or the test fails after five real seconds saying what was waited for. */
void wait_until(bool (*cond)(void *arg), void *arg, const char *what);
void scratch_make(char *buf, size_t cap); /* a new directory below TMPDIR or /tmp */
void scratch_remove(const char *dir);
/* dir/name: write whole, read whole (malloc'ed, NULL when it is not there), is it there. */
void file_put(const char *dir, const char *name, const char *text);
char *file_get(const char *dir, const char *name);
bool file_there(const char *dir, const char *name);
void log_quiet(void); /* the daemon's log to nowhere */
/* *text holds `part`; else the test fails and shows both. */
#define assert_says(text, part) assert_says_((text), (part), __FILE__, __LINE__)
void assert_says_(const char *text, const char *part, const char *file, int line);

#endif
