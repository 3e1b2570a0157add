/* fs/metrics.c - the control file `metrics`: what `status` counts, in Prometheus' text format, and the engine's part.
 * Called by: the table of control files. Threads: control threads. Blocks: never. */
#include "fs/ctl_int.h"
#include "version.h"

#include <stdio.h>
#include <string.h>

/* A key of core_status with a number, and what it is called here. Rows of one metric stand together. */
static const struct {
	const char *key, *metric, *label, *type, *help;
} rows[] = {
	{ "ops_read", "operations_total", "kind=\"read\"", "counter", "Operations through the mounts, by kind." },
	{ "ops_write", "operations_total", "kind=\"write\"", NULL, NULL },
	{ "ops_fsync", "operations_total", "kind=\"fsync\"", NULL, NULL },
	{ "ops_fallocate", "operations_total", "kind=\"fallocate\"", NULL, NULL },
	{ "ops_meta", "operations_total", "kind=\"meta\"", NULL, NULL },
	{ "ops_direct", "data_operations_total", "path=\"direct\"", "counter",
	  "Reads and writes, by the backing's descriptor they used." },
	{ "ops_buffered", "data_operations_total", "path=\"buffered\"", NULL, NULL },
	{ "inflight", "inflight_operations", "", "gauge", "Modifying operations between entering and leaving the gate." },
	{ "parked", "parked_operations", "", "gauge", "Operations that wait at the closed gate." },
	{ "parked_bytes", "parked_bytes", "", "gauge", "Payload of operations that wait at the closed gate." },
	{ "parked_total", "parked_operations_total", "", "counter", "Operations that have waited at the closed gate." },
	{ "gate_opened_by_deadline", "gate_deadline_total", "", "counter", "How often the deadline had to open the gate." },
	{ "slots_left", "request_slots_free", "", "gauge", "Free request slots; at 0 requests stay unfetched." },
	{ "transport_threads", "transport_threads", "", "gauge", "Lanes of the transport." },
	{ "transport_threads_active", "transport_threads_active", "", "gauge", "Lanes that fetch requests now." },
	{ "nodes", "known_files", "", "gauge", "Files known to the kernel." },
	{ "node_fds", "kept_descriptors", "", "gauge", "Descriptors kept for known files." },
	{ "open_files", "open_files", "", "gauge", "Files open through the mounts." },
};

/* The value of `key`, a line of its own; NULL: there is none. */
static const char *value_of(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *p = text; *p; p += strcspn(p, "\n"), p += *p == '\n')
		if (strncmp(p, key, n) == 0 && p[n] == ' ')
			return p + n + 1;
	return NULL;
}

static void put_info(struct ctl *c, const char *status, struct vbuf *out)
{
	const char *transport = value_of(status, "transport"), *gate = value_of(status, "gate");

	vbuf_printf(out, "# HELP stillfs_info Version and transport.\n# TYPE stillfs_info gauge\n"
			 "stillfs_info{name=\"%s\",version=\"%s\",transport=\"%.*s\"} 1\n", c->d.name, STILLFS_VERSION,
		    transport ? (int)strcspn(transport, " \n") : 0, transport ? transport : "");
	vbuf_printf(out, "# HELP stillfs_gate_closed 1 while the gate is closing or closed.\n# TYPE stillfs_gate_closed gauge\n"
			 "stillfs_gate_closed{name=\"%s\"} %d\n", c->d.name, gate && strncmp(gate, "open\n", 5) != 0);
	vbuf_printf(out, "# HELP stillfs_restarts_total Times that a new daemon has taken over.\n"
			 "# TYPE stillfs_restarts_total counter\nstillfs_restarts_total{name=\"%s\"} %u\n", c->d.name,
		    atomic_load(&c->d.shm->restarts));
}

int ctl_render_metrics(struct ctl *c, struct vbuf *out)
{
	struct vbuf status = VBUF_INIT;
	const char *text, *v;

	core_status(c->d.core, &status);
	text = vbuf_text(&status);
	put_info(c, text, out);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		v = value_of(text, rows[i].key);
		if (rows[i].help)
			vbuf_printf(out, "# HELP stillfs_%s %s\n# TYPE stillfs_%s %s\n", rows[i].metric, rows[i].help, rows[i].metric,
				    rows[i].type);
		if (v)
			vbuf_printf(out, "stillfs_%s{name=\"%s\"%s%s} %.*s\n", rows[i].metric, c->d.name, *rows[i].label ? "," : "",
				    rows[i].label, (int)strcspn(v, " \n"), v);
	}
	vbuf_free(&status);
	core_metrics(c->d.core, c->d.name, out);
	engine_metrics(c->engine, out);
	return 0;
}
