/* tests/unit/fs/test_events.c - the event stream: lines, offsets, and what a full ring does to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "fs/events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RING 1024u

/* Everything from `off`, as text. */
static size_t read_all(struct events *e, uint64_t off, char *buf, size_t cap)
{
	size_t n, len = 0;

	while ((n = events_read(e, off + len, buf + len, cap - 1 - len)) != 0)
		len += n;
	buf[len] = '\0';
	return len;
}

static void an_event_is_one_line_with_its_number_time_name_and_type(void **state)
{
	struct events *e = events_new(RING);
	char text[512], time[32], rest[256];
	unsigned seq;

	assert_non_null(e);
	assert_int_equal(events_end(e), 0);
	events_add(e, "orders", "gate", "\"state\":\"open\"");
	assert_int_equal(read_all(e, 0, text, sizeof(text)), events_end(e));
	assert_int_equal(sscanf(text, "{\"seq\":%u,\"time\":\"%31[^\"]\",%255[^\n]", &seq, time, rest), 3);
	assert_int_equal(seq, 1);
	assert_int_equal(strlen(time), 24);
	assert_string_equal(rest, "\"name\":\"orders\",\"type\":\"gate\",\"state\":\"open\"}");
	assert_int_equal(text[strlen(text) - 1], '\n');
	events_free(e);
}

static void an_event_without_members_has_no_stray_comma(void **state)
{
	struct events *e = events_new(RING);
	char text[512];

	events_add(e, "a", "start", "");
	(void)read_all(e, 0, text, sizeof(text));
	assert_non_null(strstr(text, "\"type\":\"start\"}\n"));
	events_free(e);
}

static void offsets_are_absolute_and_reading_goes_on_where_it_stopped(void **state)
{
	struct events *e = events_new(RING);
	char whole[RING + 1], parts[RING + 1], byte;
	size_t n = 0;

	for (int i = 0; i < 5; i++)
		events_add(e, "a", "t", "");
	assert_int_equal(read_all(e, 0, whole, sizeof(whole)), events_end(e));
	while (events_read(e, n, &byte, 1) == 1)
		parts[n++] = byte;
	parts[n] = '\0';
	assert_string_equal(parts, whole);
	assert_int_equal(events_read(e, events_end(e), parts, sizeof(parts)), 0);
	assert_int_equal(events_read(e, events_end(e) + 1000, parts, sizeof(parts)), 0);
	events_add(e, "a", "later", "");
	assert_int_equal(read_all(e, n, parts, sizeof(parts)), events_end(e) - n);
	assert_non_null(strstr(parts, "\"seq\":6,"));
	events_free(e);
}

static void what_the_ring_has_lost_reads_as_newlines(void **state)
{
	struct events *e = events_new(RING);
	char *text = malloc(1 << 16);
	unsigned seq = 0, lines = 0;
	size_t len, lost;
	uint64_t end;

	assert_non_null(text);
	for (int i = 0; i < 100; i++)
		events_add(e, "orders", "snapshot", "\"step\":\"lock\"");
	end = events_end(e);
	assert_true(end > 3 * RING);
	len = read_all(e, 0, text, 1 << 16);
	assert_int_equal(len, end); /* offsets did not move */
	lost = (size_t)end - RING;
	assert_int_equal(strspn(text, "\n"), lost);
	/* after the rest of a line, whole ones in their order up to the last */
	for (char *p = strchr(text + lost, '\n'); p && p[1]; p = strchr(p + 1, '\n')) {
		unsigned now;

		assert_int_equal(sscanf(p + 1, "{\"seq\":%u,", &now), 1);
		assert_true(lines == 0 || now == seq + 1);
		seq = now;
		lines++;
	}
	assert_int_equal(seq, 100);
	assert_true(lines > 3);
	free(text);
	events_free(e);
}

static void an_event_too_long_for_the_ring_says_so_instead(void **state)
{
	struct events *e = events_new(RING);
	char members[RING], text[RING + 1];

	memset(members, 'x', sizeof(members) - 1);
	members[sizeof(members) - 1] = '\0';
	members[RING / 2 + 1] = '\0';
	events_add(e, "a", "big", members);
	(void)read_all(e, 0, text, sizeof(text));
	assert_non_null(strstr(text, "\"type\":\"big\",\"error\":\"event too long, dropped\"}\n"));
	assert_null(strstr(text, "xx"));
	members[RING / 2] = '\0';
	events_add(e, "a", "half", members);
	(void)read_all(e, 0, text, sizeof(text));
	assert_non_null(strstr(text, "xxxx"));
	events_free(e);
}

static void a_name_with_quotes_stays_inside_its_string(void **state)
{
	struct events *e = events_new(RING);
	char text[512];

	events_add(e, "a\"\n", "t", "");
	(void)read_all(e, 0, text, sizeof(text));
	assert_non_null(strstr(text, "\"name\":\"a\\\"\\n\","));
	events_free(e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_event_is_one_line_with_its_number_time_name_and_type),
		cmocka_unit_test(an_event_without_members_has_no_stray_comma),
		cmocka_unit_test(offsets_are_absolute_and_reading_goes_on_where_it_stopped),
		cmocka_unit_test(what_the_ring_has_lost_reads_as_newlines),
		cmocka_unit_test(an_event_too_long_for_the_ring_says_so_instead),
		cmocka_unit_test(a_name_with_quotes_stays_inside_its_string),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
