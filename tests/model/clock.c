/* A clock of its own for a program: the host's, and as many seconds more as a mapped file says. It is loaded before libc. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
	const char *path = getenv("OSM_TEST_CLOCK");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return;
	void *at = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (at != MAP_FAILED)
		ahead = at;
}

int clock_gettime(clockid_t id, struct timespec *now) {
	int done = (int)syscall(SYS_clock_gettime, id, now);
	if (done == 0 && id == CLOCK_REALTIME && ahead)
		now->tv_sec += *ahead;
	return done;
}
