#include "model/reference.cpp"
