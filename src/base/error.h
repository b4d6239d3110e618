#pragma once

#include "fulgur/error.h"  // errors are part of the public interface
