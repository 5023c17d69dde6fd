//! What every transport must do, as functions over a [`TransportFixture`].
