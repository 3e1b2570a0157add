/* base/log.h - the daemon's log: one line per message, to stderr or the log file.
 * Any thread but those of the data path (never between a request and its reply). May block on
 * the log's file, which therefore never lies on a backing filesystem. Never a secret. */
#ifndef STILLFS_BASE_LOG_H
#define STILLFS_BASE_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* fd: borrowed, kept open by the caller; default 2. */
void log_setup(int fd, enum log_level max);
int log_descriptor(void); /* where it goes; for signal handlers */
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
