/*
 * Lets Debian's user-mode kernel run on processors whose register state is larger than it knows (AMX: 11,008 bytes).
 *
 * Since Linux 5.16 a tracer has to give all of the state when it sets it, however much of it is in use. The user-mode
 * kernel gives as much as it knows and is answered EFAULT. Preloaded into it, this puts what it gives into the state
 * as it is, and gives that: what the kernel does not know it has not saved either, and no program in it may use.
 */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static char whole[1 << 16];

long ptrace(enum __ptrace_request request, ...)
{
	static long (*next)(enum __ptrace_request, ...);
	va_list rest;
	va_start(rest, request);
	int pid = va_arg(rest, int);
	void *address = va_arg(rest, void *), *data = va_arg(rest, void *);
	va_end(rest);
	if (!next)
		next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");
	long answer = next(request, pid, address, data);
	if (answer == 0 || errno != EFAULT || request != PTRACE_SETREGSET || address != (void *)NT_X86_XSTATE)
		return answer;
	struct iovec given = *(struct iovec *)data, all = { whole, sizeof whole };
	if (next(PTRACE_GETREGSET, pid, address, &all) != 0 || all.iov_len < given.iov_len) {
		errno = EFAULT;
		return -1;
	}
	memcpy(whole, given.iov_base, given.iov_len);
	return next(PTRACE_SETREGSET, pid, address, &all);
}
