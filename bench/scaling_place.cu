#include "scaling_place.cpp"
