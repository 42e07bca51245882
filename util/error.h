// SPDX-License-Identifier: MIT
// One failure on its way to a user: a code for programs and a line for people.
//
// Functions that can fail in ways a user must understand return `struct error *`: NULL is success, anything else
// belongs to the caller, who either passes it on or prints and frees it, never both. The text is one line
// without a final newline and says what was expected, what came, and what to try.
//
// libvmkd's public `struct vmkd_error` is another type: target/ translates at that border.
//
// Rules: any thread; allocates, and falls back to a static object when memory is out, so a failure is
// never lost. The out-parameters of the failing function are untouched.
#ifndef UTIL_ERROR_H
#define UTIL_ERROR_H

#define ERROR_TEXT_MAX 1024u // bytes with the NUL; longer texts are cut

struct error {
	int code;         // an errno value, or a code of the module's own above 1000 that its header documents
	const char *text; // NUL-terminated, owned by the error
};

#define ERROR_MUST_CHECK __attribute__((warn_unused_result))

// Make an error. Never returns NULL. Control characters become blanks, at the end nothing: other programs' words may be in it.
ERROR_MUST_CHECK __attribute__((format(printf, 2, 3)))
struct error *error_create(int code, const char *format, ...);

// Put "CONTEXT: " before the text, as in "reading /x: no such file". Consumes `error`, returns the replacement; NULL stays NULL.
ERROR_MUST_CHECK __attribute__((format(printf, 2, 3)))
struct error *error_prefix(struct error *error, const char *format, ...);

// Free; NULL is fine.
void error_free(struct error *error);

// Print "PROGRAM: TEXT\n" on stderr and free. -> 1, an exit status, so that `return error_report(...)` reads well.
int error_report(const char *program, struct error *error);

#endif
