/* Scores of requests by a policy of linear layers, and the choice among them: what `native_policy.py` calls.
 *
 * One request multiplies a row by matrices that no cache above the second level holds, so the time is that of reading
 * them. Their columns are kept in panels of 64 or 16, each panel row after row, and a sum stays in registers. Rows whose
 * input is 0 add nothing and are not read: after a rectifier that is most of them.
 *
 * A call takes some ten microseconds and keeps the interpreter's lock, which costs more to get back than that. Many
 * requests share what is read, in `_native_many.h`.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { GROUP = 16, PANEL = 64 }; /* columns: a layer is panels, then groups for what is left over */

typedef struct {
    int inputs, columns; /* columns: filled up to whole groups */
    const float *bias, *weight;
} Layer;

static int filled(int columns) { return (columns + GROUP - 1) / GROUP * GROUP; }

static size_t padded(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* The next part of a block of memory. */
static void *part(char **free, size_t bytes)
{
    void *here = *free;
    *free += padded(bytes);
    return here;
}

static size_t layer_bytes(int inputs, int columns)
{
    return ((size_t)inputs + 1) * filled(columns) * sizeof(float);
}

/* Bias (columns,) and weight (inputs, columns) as panels; columns that fill the last group up are zeros. */
static Layer packed(char **free, const float *bias, const float *weight, int inputs, int columns)
{
    float *sums = part(free, layer_bytes(0, columns));
    float *panel = part(free, layer_bytes(inputs - 1, columns));
    Layer layer = {inputs, filled(columns), sums, panel};
    memset(sums, 0, layer_bytes(inputs, columns));
    memcpy(sums, bias, columns * sizeof(float));
    for (int start = 0; start < columns;) {
        int width = layer.columns - start >= PANEL ? PANEL : GROUP;
        int kept = columns - start < width ? columns - start : width;
        for (int row = 0; row < inputs; row++, panel += width)
            memcpy(panel, weight + (size_t)row * columns + start, kept * sizeof(float));
        start += width;
    }
    return layer;
}

/* Sums over rows for as many columns as a processor keeps in eight registers. */
#define SUMS(Vector, count_of_vectors, stride)                                                                         \
    do {                                                                                                               \
        Vector sums[count_of_vectors];                                                                                 \
        memcpy(sums, bias, sizeof(sums));                                                                              \
        for (int i = 0; i < count; i++) {                                                                              \
            float factor = x[rows[i]];                                                                                 \
            const Vector *row = (const Vector *)(panel + (size_t)(stride) * rows[i]);                                  \
            _Pragma("GCC unroll 8") for (int k = 0; k < (count_of_vectors); k++) sums[k] += factor * row[k];           \
        }                                                                                                              \
        memcpy(out, sums, sizeof(sums));                                                                               \
    } while (0)

/* out = bias + the sum of x[row] * weight[row] over so many rows. */
typedef void Product(const Layer *layer, const float *x, const int *rows, int count, float *out);

typedef float Four __attribute__((vector_size(16), may_alias));

static void product_of_fours(const Layer *layer, const float *x, const int *rows, int count, float *out)
{
    const float *panel = layer->weight, *bias = layer->bias;
    int left = layer->columns;
    for (; left >= PANEL; left -= PANEL, panel += (size_t)PANEL * (layer->inputs - 1)) {
        for (int half = 0; half < 2; half++, panel += PANEL / 2, bias += PANEL / 2, out += PANEL / 2)
            SUMS(Four, 8, PANEL);
    }
    for (; left > 0; left -= GROUP, panel += (size_t)GROUP * layer->inputs, bias += GROUP, out += GROUP)
        SUMS(Four, 4, GROUP);
}

#if defined(__x86_64__) && defined(__GNUC__)
typedef float Eight __attribute__((vector_size(32), may_alias));

__attribute__((target("avx2,fma"))) static void product_of_eights(const Layer *layer, const float *x, const int *rows,
                                                                   int count, float *out)
{
    const float *panel = layer->weight, *bias = layer->bias;
    int left = layer->columns;
    for (; left >= PANEL; left -= PANEL, panel += (size_t)PANEL * layer->inputs, bias += PANEL, out += PANEL)
        SUMS(Eight, 8, PANEL);
    for (; left > 0; left -= GROUP, panel += (size_t)GROUP * layer->inputs, bias += GROUP, out += GROUP)
        SUMS(Eight, 2, GROUP);
}

static Product *fastest_product(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? product_of_eights : product_of_fours;
}
#else
static Product *fastest_product(void) { return product_of_fours; }
#endif

enum { ARRAYS = 9, FIRST = 3, SECOND = 5, HEAD = 7 };

typedef struct {
    PyObject_HEAD
    int image_width, question_width, dimensions, members, wide, narrow, actions, knots, accuracy;
    int inputs; /* features and the code of the context */
    double limit, position_low, position_high, budget_low, budget_high, price_low, price_high;
    double *frequencies; /* of the waves that encode a budget or a price */
    float *scaling[2];
    Layer first, *second, *head; /* of all members, and one of each */
    Product *product;
    void *memory;
} Network;

/* Positions of numbers other than 0; how many there are. */
static int nonzero(const float *x, int count, int *rows)
{
    int found = 0;
    for (int i = 0; i < count; i++) {
        rows[found] = i;
        found += x[i] != 0.0f;
    }
    return found;
}

static int rectify(float *x, int count, int *rows)
{
    for (int i = 0; i < count; i++)
        x[i] = x[i] > 0.0f ? x[i] : 0.0f;
    return nonzero(x, count, rows);
}

static int all_finite(const float *x, int count)
{
    int bad = 0;
    for (int i = 0; i < count; i++)
        bad |= !(fabsf(x[i]) <= FLT_MAX);
    return !bad;
}

/* `FeatureScaling.apply` by the mean and the scale. */
static void standardise(const Network *self, const float *x, int start, int count, float *out)
{
    const float *mean = self->scaling[0] + start, *scale = self->scaling[1] + start;
    float limit = (float)self->limit;
    for (int i = 0; i < count; i++) {
        float scaled = (x[i] - mean[i]) * scale[i];
        scaled = scaled < limit ? scaled : limit;
        out[i] = scaled > -limit ? scaled : -limit;
    }
}

/* `FeatureScaling.apply` by ranks. */
static void rank(const Network *self, const float *x, int start, int count, float *out)
{
    for (int i = 0; i < count; i++) {
        const float *knots = self->scaling[0] + (size_t)(start + i) * self->knots;
        const float *scores = self->scaling[1] + (size_t)(start + i) * self->knots;
        int low = 1, high = self->knots - 1; /* the first knot from 1 on that is above x, or the last one */
        while (low < high) {
            int middle = (low + high) / 2;
            if (knots[middle] <= x[i])
                low = middle + 1;
            else
                high = middle;
        }
        float width = knots[low] - knots[low - 1];
        float share = (x[i] - knots[low - 1]) / (width > 0.0f ? width : 1.0f);
        share = share < 0.0f ? 0.0f : share > 1.0f ? 1.0f : share;
        out[i] = scores[low - 1] + share * (scores[low] - scores[low - 1]);
    }
}

/* `encode_budget` of one number. */
static void encode(const Network *self, double value, double low, double high, float *out)
{
    double position = value > 0.0 ? log(value / low) / log(high / low) : self->position_low;
    position = position < self->position_low ? self->position_low : position;
    position = position > self->position_high ? self->position_high : position;
    if (self->dimensions == 1) {
        *out = (float)position;
        return;
    }
    int waves = self->dimensions / 2;
    for (int i = 0; i < waves; i++) {
        double angle = self->frequencies[i] * position;
        out[i] = (float)sin(angle);
        out[waves + i] = (float)cos(angle);
    }
}

/* `encode_context` of one request. */
static void encode_context(const Network *self, double budget, double price, float *out)
{
    encode(self, budget, self->budget_low, self->budget_high, out);
    if (self->price_low <= 0.0)
        return;
    out += self->dimensions;
    if (price > 0.0)
        encode(self, price, self->price_low, self->price_high, out);
    else
        memset(out, 0, self->dimensions * sizeof(float));
    out[self->dimensions] = price > 0.0 ? 0.0f : 1.0f;
}

/* Mean over members of accuracies or logits, from the inputs in `row`. */
static int forward(const Network *self, float *row, float *values)
{
    int hidden = self->members * self->wide, most = self->inputs > self->wide ? self->inputs : self->wide;
    most = most > self->narrow ? most : self->narrow;
    size_t bytes = layer_bytes(0, hidden) + layer_bytes(0, self->narrow) + layer_bytes(0, self->actions);
    char *memory = PyMem_Malloc(bytes + most * sizeof(int) + 4 * 64);
    if (memory == NULL)
        return -1;
    char *free = (char *)padded((size_t)memory);
    float *first = part(&free, layer_bytes(0, hidden));
    float *second = part(&free, layer_bytes(0, self->narrow));
    float *outputs = part(&free, layer_bytes(0, self->actions));
    int *rows = part(&free, most * sizeof(int));
    float share = 1.0f / self->members;
    memset(values, 0, self->actions * sizeof(float));
    self->product(&self->first, row, rows, nonzero(row, self->inputs, rows), first);
    for (int member = 0; member < self->members; member++) {
        float *own = first + (size_t)member * self->wide;
        self->product(&self->second[member], own, rows, rectify(own, self->wide, rows), second);
        self->product(&self->head[member], second, rows, rectify(second, self->narrow, rows), outputs);
        for (int i = 0; i < self->actions; i++)
            values[i] += share * (self->accuracy ? 1.0f / (1.0f + expf(-outputs[i])) : outputs[i]);
    }
    PyMem_Free(memory);
    return 0;
}

/* A contiguous buffer of `count` numbers, or of any number where that is negative; 0 where the object is none. */
static int numbers(PyObject *object, const char *format, Py_ssize_t count, int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) < 0) {
        PyErr_Clear();
        return 0;
    }
    if (view->ndim == 1 && strcmp(view->format, format) == 0 && (count < 0 || view->shape[0] == count))
        return 1;
    PyBuffer_Release(view);
    return 0;
}

/* The features as inputs, at `start` of the network's; 0 where they are not float32 numbers of that width. */
static int read_features(const Network *self, PyObject *object, int start, int count, float *row)
{
    Py_buffer view;
    if (!numbers(object, "f", count, PyBUF_SIMPLE, &view))
        return 0;
    int good = all_finite(view.buf, count);
    if (good)
        (self->knots ? rank : standardise)(self, view.buf, start, count, row + start);
    PyBuffer_Release(&view);
    return good;
}

static PyObject *network_values(Network *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "values: expected image_features, question_features, budget, price, out");
        return NULL;
    }
    double budget = PyFloat_AsDouble(args[2]), price = PyFloat_AsDouble(args[3]);
    if (PyErr_Occurred())
        return NULL;
    float *row = PyMem_Malloc(self->inputs * sizeof(float));
    if (row == NULL)
        return PyErr_NoMemory();
    Py_buffer out;
    int good = !isnan(budget) && price >= 0.0 && price <= DBL_MAX &&
               read_features(self, args[0], 0, self->image_width, row) &&
               read_features(self, args[1], self->image_width, self->question_width, row) &&
               numbers(args[4], "f", self->actions, PyBUF_WRITABLE, &out);
    int failed = 0;
    if (good) {
        encode_context(self, budget, price, row + self->image_width + self->question_width);
        failed = forward(self, row, out.buf);
        PyBuffer_Release(&out);
    }
    PyMem_Free(row);
    return failed ? PyErr_NoMemory() : PyBool_FromLong(good);
}

#include "_native_many.h"

static int network_sizes(Network *self, const Py_buffer *arrays, size_t *bytes)
{
    int features = self->image_width + self->question_width, hidden = self->members * self->wide;
    if (self->image_width < 0 || self->question_width < 0 || self->dimensions < 1 || self->members < 1 ||
        (self->dimensions > 1 && self->dimensions % 2) || self->wide < 1 || self->narrow < 1 || self->actions < 1 ||
        self->knots < 0 || self->knots == 1) {
        PyErr_SetString(PyExc_ValueError, "sizes: expected positive numbers, one dimension or an even number of them, and "
                                          "no knots or two of them");
        return -1;
    }
    int scaled = features * (self->knots ? self->knots : 1);
    size_t expected[ARRAYS] = {
        /* in units of float32 */
        scaled,
        scaled,
        self->dimensions / 2 * 2, /* float64 */
        hidden,
        (size_t)self->inputs * hidden,
        (size_t)self->members * self->narrow,
        (size_t)self->members * self->wide * self->narrow,
        (size_t)self->members * self->actions,
        (size_t)self->members * self->narrow * self->actions,
    };
    for (int i = 0; i < ARRAYS; i++) {
        if ((size_t)arrays[i].len != expected[i] * sizeof(float)) {
            PyErr_Format(PyExc_ValueError, "array %d: got %zd bytes, expected %zu", i, arrays[i].len,
                         expected[i] * sizeof(float));
            return -1;
        }
    }
    *bytes = 64 + 2 * padded(scaled * sizeof(float)) + padded(expected[2] * sizeof(float)) +
             padded(2 * self->members * sizeof(Layer)) + layer_bytes(self->inputs, hidden) +
             self->members * (layer_bytes(self->wide, self->narrow) + layer_bytes(self->narrow, self->actions));
    return 0;
}

static void network_fill(Network *self, const Py_buffer *arrays)
{
    char *free = (char *)padded((size_t)self->memory);
    void *copies[FIRST];
    for (int i = 0; i < FIRST; i++) {
        copies[i] = part(&free, arrays[i].len);
        memcpy(copies[i], arrays[i].buf, arrays[i].len);
    }
    self->scaling[0] = copies[0], self->scaling[1] = copies[1], self->frequencies = copies[2];
    self->product = fastest_product();
    self->second = part(&free, 2 * self->members * sizeof(Layer));
    self->head = self->second + self->members;
    int hidden = self->members * self->wide;
    self->first = packed(&free, arrays[FIRST].buf, arrays[FIRST + 1].buf, self->inputs, hidden);
    for (int member = 0; member < self->members; member++) {
        const float *bias = arrays[SECOND].buf, *weight = arrays[SECOND + 1].buf;
        self->second[member] = packed(&free, bias + (size_t)member * self->narrow,
                                      weight + (size_t)member * self->wide * self->narrow, self->wide, self->narrow);
        bias = arrays[HEAD].buf, weight = arrays[HEAD + 1].buf;
        self->head[member] =
            packed(&free, bias + (size_t)member * self->actions,
                   weight + (size_t)member * self->narrow * self->actions, self->narrow, self->actions);
    }
}

static PyObject *network_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Network *self = (Network *)allocate(type, 0);
    if (self == NULL)
        return NULL;
    Py_buffer arrays[ARRAYS];
    memset(arrays, 0, sizeof(arrays));
    static char *names[] = {"sizes", "ranges", "accuracy", "arrays", NULL};
    size_t bytes = 0;
    int read = PyArg_ParseTupleAndKeywords(
        args, kwargs, "(iiiiiiii)(ddddddd)p(y*y*y*y*y*y*y*y*y*)", names, &self->image_width, &self->question_width,
        &self->dimensions, &self->members, &self->wide, &self->narrow, &self->actions, &self->knots, &self->limit,
        &self->position_low, &self->position_high, &self->budget_low, &self->budget_high, &self->price_low,
        &self->price_high, &self->accuracy, &arrays[0], &arrays[1], &arrays[2], &arrays[3], &arrays[4], &arrays[5],
        &arrays[6], &arrays[7], &arrays[8]);
    int codes = self->price_low > 0.0 ? 2 * self->dimensions + 1 : self->dimensions;
    self->inputs = self->image_width + self->question_width + codes;
    int good = read && network_sizes(self, arrays, &bytes) == 0;
    if (good) {
        self->memory = PyMem_Malloc(bytes);
        if (self->memory == NULL)
            PyErr_NoMemory();
        else
            network_fill(self, arrays);
    }
    for (int i = 0; read && i < ARRAYS; i++)
        PyBuffer_Release(&arrays[i]);
    if (self->memory == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void network_dealloc(Network *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    PyMem_Free(self->memory);
    release(self);
    Py_DECREF(type);
}

/* `choose` of one request; None where an argument is not of the kind it reads. */
static PyObject *best(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "best: expected logits, mean_latency_ms, feasible");
        return NULL;
    }
    Py_buffer logits, mean_ms, feasible;
    if (!numbers(args[0], "f", -1, PyBUF_SIMPLE, &logits))
        Py_RETURN_NONE;
    Py_ssize_t actions = logits.shape[0], chosen = -1;
    int read = numbers(args[1], "d", actions, PyBUF_SIMPLE, &mean_ms);
    if (read) {
        read = numbers(args[2], "?", actions, PyBUF_SIMPLE, &feasible);
        if (read) {
            chosen = best_of_float(logits.buf, mean_ms.buf, feasible.buf, actions);
            PyBuffer_Release(&feasible);
        }
        PyBuffer_Release(&mean_ms);
    }
    PyBuffer_Release(&logits);
    if (!read)
        Py_RETURN_NONE;
    return PyLong_FromSsize_t(chosen);
}

static PyMethodDef network_methods[] = {
    {"values", (PyCFunction)(void (*)(void))network_values, METH_FASTCALL,
     "Write what one request's decision weighs into `out`; False where an argument is not of the kind it reads."},
    {"many", (PyCFunction)(void (*)(void))network_many, METH_FASTCALL,
     "`values` of many requests, arrays one below the other and flat; budgets and prices float64. The last argument: "
     "numbers in a vector at most, 16 for what the processor has."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot network_slots[] = {
    {Py_tp_doc, "A policy of linear layers, packed for one request or many. Immutable."},
    {Py_tp_new, network_new},
    {Py_tp_dealloc, network_dealloc},
    {Py_tp_methods, network_methods},
    {0, NULL},
};

static PyType_Spec network_spec = {
    .name = "paceline.policies._native.Network",
    .basicsize = sizeof(Network),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = network_slots,
};

static PyMethodDef functions[] = {
    {"best", (PyCFunction)(void (*)(void))best, METH_FASTCALL,
     "Position of the best logit among the feasible ones, ties going to the cheaper; -1 where nothing fits; None where an "
     "argument is not of the kind it reads."},
    {"best_of_rows", (PyCFunction)(void (*)(void))best_of_rows, METH_FASTCALL,
     "`best` of many requests, arrays one below the other and flat, into `out`, int64; False where an argument is not of "
     "the kind it reads."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "paceline.policies._native",
    .m_doc = "Scores of requests and the choice among them, compiled.",
    .m_size = 0,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module == NULL ? NULL : PyType_FromSpec(&network_spec);
    if (type == NULL || PyModule_AddObjectRef(module, "Network", type) < 0) {
        Py_XDECREF(module);
        module = NULL;
    }
    Py_XDECREF(type);
    return module;
}
