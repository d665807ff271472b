/* Many requests at once: `Network.many`, and the choice for each, `best_of_rows`. Included by `_native.c` alone.
 *
 * Requests go through the network in blocks of rows, whose products read the weights once for all of them. A block's
 * hidden layer stays in the second-level cache. No lock of the interpreter is held meanwhile.
 */
enum { BLOCK = 96 }; /* rows */

#define LANES 4
#define NAME(x) x##_of_fours
#define TARGET
#define ROWS_OF_32 2
#define ROWS_OF_16 3
#include "_native_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define LANES 8
#define NAME(x) x##_of_eights
#define TARGET __attribute__((target("avx2,fma")))
#define ROWS_OF_32 3
#define ROWS_OF_16 6
#include "_native_kernels.h"

#define LANES 16
#define NAME(x) x##_of_sixteens
#define TARGET __attribute__((target("avx512f,avx512dq,fma")))
#define ROWS_OF_32 12
#define ROWS_OF_16 12
#include "_native_kernels.h"
#endif

typedef void ForwardRows(const Network *self, const float *x, int rows, float *work, float *values);

/* By the most numbers in a vector: the widest of those up to `lanes` that the processor has. */
static ForwardRows *widest(int lanes)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (lanes >= 16 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        return forward_rows_of_sixteens;
    if (lanes >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return forward_rows_of_eights;
#endif
    (void)lanes;
    return forward_rows_of_fours;
}

/* Inputs of `rows` requests from their features and contexts; 0 where one is not acceptable. */
static int read_rows(const Network *self, const float *image, const float *question, const double *budget,
                     const double *price, int rows, float *x)
{
    int widths[2] = {self->image_width, self->question_width};
    for (int row = 0; row < rows; row++, x += self->inputs) {
        const float *parts[2] = {image + (size_t)row * widths[0], question + (size_t)row * widths[1]};
        if (isnan(budget[row]) || !(price[row] >= 0.0 && price[row] <= DBL_MAX))
            return 0;
        for (int part = 0, start = 0; part < 2; start += widths[part++]) {
            if (!all_finite(parts[part], widths[part]))
                return 0;
            (self->knots ? rank : standardise)(self, parts[part], start, widths[part], x + start);
        }
        encode_context(self, budget[row], price[row], x + widths[0] + widths[1]);
    }
    return 1;
}

static int block_rows(Py_ssize_t count) { return count < BLOCK ? (int)count : BLOCK; }

/* Numbers of work for a block of so many rows. */
static size_t block_size(const Network *self, int rows)
{
    return (size_t)rows * (self->inputs + self->first.columns + self->second[0].columns + 2 * self->head[0].columns) + 16;
}

/* Values (rows, actions) of all requests; 0 where one is not acceptable. */
static int values_of_rows(const Network *self, ForwardRows *forward, void *const *given, Py_ssize_t count, float *memory)
{
    int filled_actions = self->head[0].columns, most = block_rows(count);
    float *x = (float *)padded((size_t)memory), *values = x + (size_t)most * self->inputs;
    float *work = values + (size_t)most * filled_actions;
    const float *image = given[0], *question = given[1];
    const double *budget = given[2], *price = given[3];
    float *out = given[4];
    for (Py_ssize_t done = 0; done < count; done += BLOCK) {
        int rows = block_rows(count - done);
        if (!read_rows(self, image + (size_t)done * self->image_width, question + (size_t)done * self->question_width,
                       budget + done, price + done, rows, x))
            return 0;
        forward(self, x, rows, work, values);
        for (int row = 0; row < rows; row++)
            memcpy(out + ((size_t)done + row) * self->actions, values + (size_t)row * filled_actions,
                   self->actions * sizeof(float));
    }
    return 1;
}

static PyObject *network_many(Network *self, PyObject *const *args, Py_ssize_t count)
{
    enum { ARRAYS_OF_MANY = 5 };
    long lanes = count == ARRAYS_OF_MANY + 1 ? PyLong_AsLong(args[ARRAYS_OF_MANY]) : -1;
    if (count != ARRAYS_OF_MANY + 1 || (lanes == -1 && PyErr_Occurred())) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError,
                            "many: expected image_features, question_features, budget, price, out, lanes");
        return NULL;
    }
    Py_buffer views[ARRAYS_OF_MANY];
    void *given[ARRAYS_OF_MANY];
    int held = 0, good = numbers(args[2], "d", -1, PyBUF_SIMPLE, &views[0]);
    Py_ssize_t rows = good ? views[0].shape[0] : 0;
    if (good)
        PyBuffer_Release(&views[0]);
    const char *formats = "ffddf";
    const Py_ssize_t widths[] = {self->image_width, self->question_width, 1, 1, self->actions};
    for (; good && held < ARRAYS_OF_MANY; held += good) {
        const char format[] = {formats[held], 0};
        int flags = held == ARRAYS_OF_MANY - 1 ? PyBUF_WRITABLE : PyBUF_SIMPLE;
        good = numbers(args[held], format, rows * widths[held], flags, &views[held]);
        if (good)
            given[held] = views[held].buf;
    }
    float *memory = good ? PyMem_Malloc(block_size(self, block_rows(rows)) * sizeof(float)) : NULL;
    int failed = good && memory == NULL;
    if (memory != NULL) {
        ForwardRows *forward = widest((int)lanes);
        Py_BEGIN_ALLOW_THREADS
        good = values_of_rows(self, forward, given, rows, memory);
        Py_END_ALLOW_THREADS
        PyMem_Free(memory);
    }
    for (int i = 0; i < held; i++)
        PyBuffer_Release(&views[i]);
    return failed ? PyErr_NoMemory() : PyBool_FromLong(good);
}

/* The best of a row, as `best`: of logits in either precision. */
#define BEST_OF(Number)                                                                                                \
    static Py_ssize_t best_of_##Number(const Number *logit, const double *mean, const char *fits, Py_ssize_t actions)  \
    {                                                                                                                  \
        Py_ssize_t chosen = -1;                                                                                        \
        for (Py_ssize_t i = 0; i < actions; i++)                                                                       \
            if (fits[i] && (chosen < 0 || logit[i] > logit[chosen] ||                                                  \
                            (logit[i] == logit[chosen] && mean[i] < mean[chosen])))                                    \
                chosen = i;                                                                                            \
        return chosen;                                                                                                 \
    }
BEST_OF(float)
BEST_OF(double)

/* `choose` of many requests into `out`, int64; False where an argument is not of the kind it reads. */
static PyObject *best_of_rows(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "best_of_rows: expected logits, mean_latency_ms, feasible, out");
        return NULL;
    }
    Py_buffer logits, mean_ms, feasible, out;
    int wide = numbers(args[0], "d", -1, PyBUF_SIMPLE, &logits);
    if (!wide && !numbers(args[0], "f", -1, PyBUF_SIMPLE, &logits))
        Py_RETURN_FALSE;
    Py_ssize_t cells = logits.shape[0], rows = 0;
    int read = numbers(args[1], "d", cells, PyBUF_SIMPLE, &mean_ms);
    if (read) {
        read = numbers(args[2], "?", cells, PyBUF_SIMPLE, &feasible);
        if (read) {
            read = numbers(args[3], "l", -1, PyBUF_WRITABLE, &out);
            if (read) {
                rows = out.shape[0];
                read = sizeof(long) == sizeof(int64_t) && rows > 0 && cells % rows == 0;
                Py_ssize_t actions = read ? cells / rows : 0;
                for (Py_ssize_t row = 0; read && row < rows; row++) {
                    const double *mean = (const double *)mean_ms.buf + row * actions;
                    const char *fits = (const char *)feasible.buf + row * actions;
                    Py_ssize_t start = row * actions;
                    ((int64_t *)out.buf)[row] =
                        wide ? best_of_double((const double *)logits.buf + start, mean, fits, actions)
                             : best_of_float((const float *)logits.buf + start, mean, fits, actions);
                }
                PyBuffer_Release(&out);
            }
            PyBuffer_Release(&feasible);
        }
        PyBuffer_Release(&mean_ms);
    }
    PyBuffer_Release(&logits);
    return PyBool_FromLong(read);
}
