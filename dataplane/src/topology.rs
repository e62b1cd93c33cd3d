//! Who is where: this cell, its containers, its peers.
